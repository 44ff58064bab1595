"""Running a model without changing it: what its forwards change is restored, random states too."""

from __future__ import annotations

import contextlib
import logging
import random
import sys
import types
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from binarize.graph.trace.containers import refill, same_attributes, same_content
from binarize.graph.trace.tensor_memory import HeldMemory, HeldTensor, storage_of, without_modes
from binarize.random_state import same_random_state

FOREIGN = {"torch", "numpy", "binarize", "logging", "threading", "multiprocessing", "concurrent", "asyncio"}
"""Packages whose objects are not searched, unless they are modules, tensors or generators."""
_DEEPEST = 3  # objects in objects: deeper ones are not part of a model


class Place(NamedTuple):
    """Where a snapshot found something: an attribute of a module or of an object."""

    holder: Any
    name: str


class Snapshot:
    """What modules and other objects hold, found through attributes, lists, dicts, sets and plain objects.

    Tensors are held with their memory, not with their values: `keep` copies these before something writes
    to them, `keep_all` at once.

    Args:
        roots: modules, tensors, or containers of them.
    """

    def __init__(self, *roots: Any) -> None:
        self._attributes: list[tuple[dict[str, Any], dict[str, Any], Any]] = []
        self._containers: list[tuple[Any, Any, Place | None]] = []
        self._empty: list[tuple[Any, Any, str]] = []  # most containers of a module: its tables of hooks
        self._tensors: list[HeldTensor] = []
        self._memory: dict[int, HeldMemory] = {}
        self._arrays: list[tuple[Any, Any]] = []
        self._generators: list[tuple[Any, Any]] = []
        self._seen: dict[int, Any] = {}  # keeps the objects alive, so that no other object gets the same id
        with without_modes():
            self._look(roots)

    def _look(self, roots: Any) -> None:
        queue: list[tuple[Any, Place | None, int]] = [(root, None, 0) for root in roots]
        while queue:
            value, place, depth = queue.pop()
            kind = type(value)
            if kind in _PLAIN or id(value) in self._seen:
                continue
            self._seen[id(value)] = value
            if isinstance(value, nn.Module):
                queue += self._object(value, 0)
            elif isinstance(value, Tensor):
                queue += self._tensor(value)
            elif isinstance(value, (dict, list, set, deque, tuple, frozenset)):
                queue += self._container(value, place, depth)
            elif isinstance(value, torch.Generator):
                self._generators.append((value, value.get_state()))
            elif isinstance(value, random.Random):
                self._generators.append((value, value.getstate()))
            elif kind.__module__.partition(".")[0] == "numpy":
                self._array(value)
            elif depth < _DEEPEST and _is_object(value):
                queue += self._object(value, depth + 1)

    def _object(self, value: Any, depth: int) -> list[tuple[Any, Place | None, int]]:
        held = value.__dict__
        before = dict(held)
        self._attributes.append((held, before, value))
        found: list[tuple[Any, Place | None, int]] = []
        for name, content in before.items():
            kind = type(content)
            if kind in _PLAIN:
                continue
            if kind in _CONTAINERS and not content:
                self._empty.append((content, value, name))
            else:
                found.append((content, Place(value, name), depth))
        return found

    def _container(self, value: Any, place: Place | None, depth: int) -> list[tuple[Any, Place | None, int]]:
        if isinstance(value, dict):
            self._containers.append((value, list(value.items()), place))
            found: Any = value.values()
        elif isinstance(value, (tuple, frozenset)):
            found = value
        else:
            found = list(value)
            self._containers.append((value, found, place))
        return [(v, place, depth) for v in found if type(v) not in _PLAIN]

    def _tensor(self, value: Tensor) -> list[tuple[Any, Place | None, int]]:
        key, storage = storage_of(value)
        if storage is not None and key not in self._memory and storage.device.type != "meta":
            self._memory[key] = HeldMemory(storage, storage.nbytes())  # type: ignore[index] - a key with a storage
        grad = value.grad if value.is_leaf else None
        try:
            data = value.data
        except Exception:  # whatever a class of tensors has instead
            data = None
        attributes, hooks = dict(value.__dict__), value._backward_hooks
        self._tensors.append(
            HeldTensor(value, data, key, grad, value.requires_grad, attributes, hooks, dict(hooks or ()))
        )
        return [(v, None, 0) for v in (grad, *attributes.values()) if v is not None]

    def _array(self, value: Any) -> None:
        numpy: Any = sys.modules["numpy"]
        if isinstance(value, numpy.ndarray) and not value.dtype.hasobject:
            self._arrays.append((value, value.copy()))
        elif isinstance(value, numpy.random.Generator):
            self._generators.append((value.bit_generator, value.bit_generator.state))
        elif isinstance(value, numpy.random.RandomState):
            self._generators.append((value, value.get_state()))

    def holds(self, tensor: Tensor) -> int | None:
        """The number of the memory of `tensor`, if the snapshot has it; other tensors may lie there too."""
        with torch._C.DisableTorchFunction():
            key = storage_of(tensor)[0]
        return key if key in self._memory else None

    def keep(self, key: int) -> None:
        """Copy the values in a piece of memory, if that was not done before."""
        self._memory[key].keep()

    def keep_all(self) -> None:
        """Copy all values."""
        for memory in self._memory.values():
            memory.keep()

    def changed_place(self) -> Place | None:
        """An attribute that was replaced or whose content changed; None if there is none."""
        for held, before, holder in self._attributes:
            if not same_attributes(held, before):
                return Place(
                    holder,
                    next(n for n in {**before, **held} if held.get(n, held) is not before.get(n, before)),
                )
        for container, holder, name in self._empty:
            if container:
                return Place(holder, name)
        for container, before, place in self._containers:
            if not same_content(container, before):
                return place if place is not None else Place(None, type(container).__name__)
        return None

    def changed_tensors(self) -> set[int]:
        """The numbers (`id`) of tensors that lie elsewhere, or whose kept values changed."""
        with without_modes():
            moved = {id(held.tensor) for held in self._tensors if held.moved()}
            written = {key for key, memory in self._memory.items() if not memory.unchanged()}
        return moved | {id(held.tensor) for held in self._tensors if held.storage in written}

    def at(self, key: int) -> Iterator[Tensor]:
        """The tensors in a piece of memory."""
        return (held.tensor for held in self._tensors if held.storage == key)

    def replaced(self) -> Iterator[tuple[nn.Module, str]]:
        """Parameters and buffers that were replaced or removed."""
        contents = {id(container): before for container, before, _ in self._containers}
        for held, before, holder in self._attributes:
            if not isinstance(holder, nn.Module):
                continue
            for table in ("_parameters", "_buffers"):
                now = held.get(table, {})
                was = contents.get(id(before.get(table)), ())
                yield from ((holder, name) for name, t in was if now.get(name) is not t)

    def restore(self) -> None:
        """Restore everything."""
        for held, before, _ in self._attributes:
            if not same_attributes(held, before):
                held.clear()
                held.update(before)
        for container, _, _ in self._empty:
            container.clear()
        for container, before, _ in self._containers:
            if not same_content(container, before):
                refill(container, before)
        for generator, state in self._generators:
            _set_state(generator, state)
        for array, values in self._arrays:
            array[...] = values
        with without_modes(), torch.inference_mode(False), torch.no_grad():
            for tensor in self._tensors:
                tensor.restore()
            for memory in self._memory.values():
                memory.restore()


_PLAIN: set[type] = {
    *(bool, int, float, complex, str, bytes, type(None), type(Ellipsis), type, types.FunctionType),
    *(types.BuiltinFunctionType, types.MethodType, types.ModuleType, torch.dtype, torch.device, torch.Size),
}


_CONTAINERS: set[type] = {dict, OrderedDict, list, set}


def _is_object(value: Any) -> bool:
    kind = type(value)
    known = isinstance(value, (type, types.ModuleType)) or kind.__module__.partition(".")[0] in FOREIGN
    return not known and isinstance(getattr(value, "__dict__", None), dict)


def _set_state(generator: Any, state: Any) -> None:
    if isinstance(generator, random.Random):
        generator.setstate(state)
    elif hasattr(generator, "set_state"):
        generator.set_state(state)
    else:
        generator.state = state


@contextlib.contextmanager
def untouched(*roots: Any) -> Iterator[Snapshot]:
    """Restore all that objects held, and the states of the global random generators.

    Args:
        roots: as of `Snapshot`; values of tensors are restored where they were kept.
    """
    with same_random_state():
        snapshot = Snapshot(*roots)
        try:
            yield snapshot
        finally:
            try:
                snapshot.restore()
            except KeyboardInterrupt:  # can be repeated from the start
                snapshot.restore()
                raise


@contextlib.contextmanager
def quiet(name: str) -> Iterator[None]:
    """No log lines of a failing fake run: the failure is reported, or a real run follows."""
    logger = logging.getLogger(name)
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before
