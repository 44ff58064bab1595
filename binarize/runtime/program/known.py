"""The programs of a network by the signatures of inputs: how often each was seen, and which are kept."""

from __future__ import annotations

import threading
from typing import Any

from binarize.bounded_cache import BoundedCache
from binarize.runtime.program.executor import Program

PROGRAMS = 8
"""Signatures whose program, or the reason why there is none, is kept."""
_SEEN = 256
PATIENCE = 8
"""Most calls after which a program is made."""


class Known:
    """What is known of a network's signatures. Those that were used last are kept.

    A program is made when a signature occurs for the second time. Recording takes seconds, which only later
    calls pay back: for each program that was dropped before any call used it (images of ever new sizes), one
    more call is waited for.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._patience = 2
        self.clear()

    def clear(self) -> None:
        """Forget all signatures."""
        with self._lock:
            self._sights: BoundedCache[Any, int] = BoundedCache(_SEEN)
            self._found: dict[Any, Program | str] = {}
            self._used: set[Any] = set()

    def get(self, key: Any) -> Program | str | None:
        """The program, or why there is none; None if that is not known."""
        with self._lock:
            found = self._found.pop(key, None)
            if found is not None:
                self._found[key] = found  # the last one
                self._used.add(key)
            return found

    def wanted(self, key: Any) -> bool:
        """Count a call whose program is not known, and say whether it is time to make it."""
        with self._lock:
            count = self._sights.get(key, 0) + 1
            self._sights.keep(key, count)
            return count >= self._patience

    def keep(self, key: Any, found: Program | str) -> None:
        """Keep what was found out for a signature."""
        with self._lock:
            self._found[key] = found
            while len(self._found) > PROGRAMS:
                oldest = next(iter(self._found))
                gone = self._found.pop(oldest)
                if isinstance(gone, Program) and oldest not in self._used:
                    self._patience = min(self._patience + 1, PATIENCE)
                self._used.discard(oldest)
                self._sights.pop(oldest, None)

    def values(self) -> tuple[Program | str, ...]:
        """What is kept."""
        with self._lock:
            return tuple(self._found.values())
