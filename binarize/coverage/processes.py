"""Control of the processes that check models, and of the memory that they share."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

TIMEOUT = 1800.0
"""Seconds after which the check of a model is ended."""

_ENDING = 10.0  # seconds that a process has to end by itself


class ProcessEndedError(Exception):
    """A process that ended without an answer, and why."""


class Worker:
    """A process of `binarize.coverage.worker`.

    It is in a session of its own: Ctrl-C reaches only the process that started it, which then ends it.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "binarize.coverage.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            start_new_session=True,
        )
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("a process without pipes")
        self._jobs, self._results = self._process.stdin, self._process.stdout
        self._late = False
        self.done = 0

    @property
    def alive(self) -> bool:
        """Whether it takes another line."""
        return not self._late and self._process.poll() is None

    def ask(self, line: str) -> str:
        """Send a line and return the answer.

        Raises:
            ProcessEndedError: the process ended without an answer.
        """
        answer = ""
        timer = threading.Timer(TIMEOUT, self._give_up)
        timer.start()
        try:
            with contextlib.suppress(OSError):  # a process that has ended closes its pipes
                self._jobs.write(line + "\n")
                self._jobs.flush()
                answer = self._results.readline()
        finally:
            timer.cancel()
        self.done += 1
        if answer.endswith("\n"):
            return answer
        raise ProcessEndedError(self._reason())

    def kill(self) -> None:
        """Kill it now; a caller that waits for its answer gets `ProcessEndedError`."""
        self._process.kill()

    def close(self) -> None:
        """Close its input, so that it ends."""
        for pipe in (self._jobs, self._results):
            with contextlib.suppress(OSError):
                pipe.close()
        self._wait()

    def _give_up(self) -> None:
        self._late = True
        self._process.kill()

    def _wait(self) -> int:
        """Its exit status; if it ends by itself, its own status and not that of a kill."""
        try:
            return self._process.wait(timeout=_ENDING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _reason(self) -> str:
        status = self._wait()
        if self._late:
            return f"no result within {TIMEOUT:g} seconds"
        why = "out of memory?" if status == -9 else "a crash of native code?"
        return f"the process ended with status {status}: {why}"


class Budget:
    """Memory shared by the processes; a job waits until there is enough left for it.

    Args:
        total: bytes.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._free = total
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, needs: int) -> Iterator[None]:
        """Reserve `needs` bytes, or all there are, while the block runs."""
        share = min(needs, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= share)
            self._free -= share
        try:
            yield
        finally:
            with self._changed:
                self._free += share
                self._changed.notify_all()
