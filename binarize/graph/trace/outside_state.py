"""State that forwards keep outside of the model: in classes, globals, default arguments and caches.

A run on fake tensors, or a trace with symbols, leaves its values there, and the model's next run would use
them. The search covers the names in the code of the modules' methods and of the functions that they call by
name. It leaves out the standard library: `warnings.catch_warnings` alone reaches `sys.modules`, and what a
run imports stays imported.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import types
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from binarize.graph.trace.containers import refill, same_content
from binarize.graph.trace.preserve_state import FOREIGN

_FOREIGN = FOREIGN | sys.stdlib_module_names
_CONTAINERS = (dict, list, set, deque)
_CACHES: Any = functools._lru_cache_wrapper
_MADE = ("__init__", "__call__")  # methods that run when a forward makes an object of a class
_MISSING = object()


class Outside:
    """Class attributes, globals, containers among them and caches of functions that forwards can reach.

    Args:
        modules: whose forwards run; those of torch are skipped.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._classes: dict[type, dict[str, Any]] = {}
        self._globals: dict[tuple[int, str], tuple[dict[str, Any], Any]] = {}
        self._containers: dict[int, tuple[Any, Any]] = {}
        self._caches: dict[Any, int] = {}
        self._seen: set[int] = set()
        self._queue: list[tuple[Any, type]] = []
        modules = list(modules)
        held = ((value, type(module)) for module in modules for value in vars(module).values())
        self._queue += [(value, cls) for value, cls in held if isinstance(value, types.FunctionType)]
        for cls in {type(module) for module in modules}:
            own = () if _is_foreign(cls) else vars(cls).keys() - {"__init__"}  # bases: what it uses
            self._class(cls, {"forward", *own})
        while self._queue:
            self._look(*self._queue.pop())

    def changed(self) -> str:
        """The name of a class attribute or global that was replaced or whose content changed; or nothing."""
        for cls, before in self._classes.items():
            if names := _differing(vars(cls), before):
                return names[0]
        for (_, name), (held, value) in self._globals.items():
            if held.get(name, _MISSING) is not value:
                return name
        held = self._containers.values()
        return next((type(now).__name__ for now, before in held if not same_content(now, before)), "")

    def restore(self) -> None:
        """Restore everything, and empty the caches that were filled."""
        for cls, before in self._classes.items():
            for name in _differing(vars(cls), before):
                if name in before:
                    setattr(cls, name, before[name])
                else:
                    delattr(cls, name)
        for (_, name), (held, value) in self._globals.items():
            if value is _MISSING:
                held.pop(name, None)
            else:
                held[name] = value
        for held, before in self._containers.values():
            if not same_content(held, before):
                refill(held, before)
        for cache, misses in self._caches.items():
            if cache.cache_info().misses != misses:
                cache.cache_clear()

    def _class(self, cls: type, names: Iterable[str]) -> None:
        for base in cls.__mro__:
            if _is_foreign(base):
                continue
            if base not in self._classes:
                self._classes[base] = dict(vars(base))
            self._queue += [(vars(base)[name], cls) for name in names if name in vars(base)]

    def _look(self, value: Any, cls: type) -> None:
        """Note a value that code can reach, and all that it leads to; `cls` is the class of its `self`."""
        if isinstance(value, (staticmethod, classmethod, types.MethodType)):
            value = value.__func__
        elif isinstance(value, property):
            value = value.fget
        elif isinstance(value, functools.partial):
            value = value.func
        if isinstance(value, _CACHES):
            self._caches.setdefault(value, value.cache_info().misses)
            value = value.__wrapped__
        if isinstance(value, _CONTAINERS):
            self._container(value)
        elif isinstance(value, types.FunctionType) and id(value) not in self._seen and not _is_foreign(value):
            self._seen.add(id(value))
            self._function(value, cls)

    def _container(self, value: Any) -> None:
        if id(value) in self._containers:
            return
        items = list(value.items()) if isinstance(value, dict) else list(value)
        self._containers[id(value)] = value, items
        held = value.values() if isinstance(value, dict) else items
        for inner in list(held):
            if type(inner) in _CONTAINERS:
                self._container(inner)

    def _function(self, function: types.FunctionType, cls: type) -> None:
        given = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
        self._queue += [(value, cls) for value in given]
        for cell in function.__closure__ or ():
            with contextlib.suppress(ValueError):  # an empty cell
                self._queue.append((cell.cell_contents, cls))
        names = set(_names(function.__code__))
        self._class(cls, names)
        self._in(function.__globals__, names, cls)

    def _in(self, held: dict[str, Any], names: set[str], cls: type) -> None:
        """Note globals of these names: in the module of a function, or in one whose functions it calls."""
        for name in names:
            value = held.get(name, _MISSING)
            if (id(held), name) in self._globals:
                continue
            self._globals[id(held), name] = held, value
            if isinstance(value, types.ModuleType) and not _is_foreign(value):
                self._in(vars(value), {n for n in names if n in vars(value)}, cls)
            elif isinstance(value, type) and not _is_foreign(value):
                self._class(value, {*names, *_MADE})
            else:
                self._queue.append((value, cls))


def _differing(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """The names, except those of Python itself, whose values have changed."""
    names = {**before, **now}
    same = (n for n in names if now.get(n, _MISSING) is before.get(n, _MISSING))
    return [n for n in names.keys() - set(same) if not n.startswith("__")]


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _is_foreign(value: Any) -> bool:
    name = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
    return str(name or "builtins").partition(".")[0] in _FOREIGN


@contextlib.contextmanager
def outside_kept(modules: Iterable[nn.Module]) -> Iterator[Outside]:
    """Restore the state that the forwards of `modules` keep outside of them.

    Args:
        modules: as of `Outside`.
    """
    outside = Outside(modules)
    try:
        yield outside
    finally:
        outside.restore()
