"""A cache of bounded size for objects that are slow to make."""

from __future__ import annotations

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class BoundedCache(dict[K, V]):
    """A dict to which entries are added with `keep`; a full one is emptied first.

    Emptying it needs no record of what was used last, which would cost time at each look-up; entries that
    are still in use are made again.

    Args:
        most: entries that it may hold.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def keep(self, key: K, value: V) -> V:
        """Add an entry and return its value."""
        if len(self) >= self.most:
            self.clear()
        self[key] = value
        return value
