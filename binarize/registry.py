"""Named things: one class for every list of choices that third parties may extend."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from binarize.errors import ConfigError, first_line, unknown_name, warn

T = TypeVar("T")


class Registry(Generic[T]):
    """A mapping from names to objects that refuses duplicates and knows near misses.

    The built-in entries are imported at the first look-up (`builtin`), as are the entry points of
    installed distributions (`group`), so that defining a registry imports nothing. An entry point that cannot
    be loaded is left out with a warning, and `get` says why: other entries can still be used.

    Args:
        what: what an entry is, in the singular; it appears in error messages.
        builtin: dotted module whose import registers the built-in entries.
        group: entry-point group that third parties register under.
    """

    def __init__(self, what: str, *, builtin: str | None = None, group: str | None = None) -> None:
        self._what = what
        self._builtin = builtin
        self._group = group
        self._entries: dict[str, T] = {}
        self._broken: dict[str, str] = {}
        self._loaded = False

    def add(self, name: str, entry: T) -> T:
        """Register `entry` under `name`.

        Raises:
            ConfigError: if the name is taken by something else.
        """
        taken = self._entries.get(name)
        if taken is not None and taken is not entry:
            raise ConfigError(
                f"{self._what} {name!r} is already registered by {taken!r}; "
                f"choose another name for {entry!r}."
            )
        self._entries[name] = entry
        return entry

    def get(self, name: str) -> T:
        """The entry called `name`.

        Raises:
            ConfigError: if there is none, with near names; or if its package cannot be loaded.
        """
        self._load()
        if name in self._broken:
            raise ConfigError(self._broken[name])
        try:
            return self._entries[name]
        except KeyError:
            raise ConfigError(unknown_name(self._what, name, self._entries)) from None

    def names(self) -> list[str]:
        """All names, sorted."""
        self._load()
        return sorted(self._entries)

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True  # before the imports: they may look names up themselves
        if self._builtin is not None:
            importlib.import_module(self._builtin)
        if self._group is None:
            return
        for point in entry_points(group=self._group):
            if point.name not in self._entries:
                self._load_point(point)

    def _load_point(self, point: EntryPoint) -> None:
        try:
            entry = point.load()
        except Exception as error:  # the module of another package may do anything
            package = "an installed package" if point.dist is None else f"the package {point.dist.name}"
            self._broken[point.name] = (
                f"{self._what} {point.name!r} of {package}: {point.value} cannot be loaded "
                f"({type(error).__name__}: {first_line(error)}). Update, repair or uninstall the package."
            )
            warn(self._broken[point.name])
            return
        self.add(point.name, entry)
