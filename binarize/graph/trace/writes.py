"""Noticing what a run writes to the tensors of a snapshot, before it is written."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from binarize.graph.trace.preserve_state import Snapshot

_LENDS_MEMORY = {
    *("numpy", "__array__", "untyped_storage", "storage", "_typed_storage", "data_ptr"),
    *("__dlpack__", "share_memory_", "__cuda_array_interface__"),
}
"""Functions that give access to the memory itself: later changes of it are not operations of torch."""
_SETTERS: dict[Any, str] = {
    getattr(Tensor, name).__set__: name for name in ("data", "grad", "requires_grad", "real", "imag")
}


class _Lent(TorchFunctionMode):
    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__()
        self._snapshot = snapshot

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in _LENDS_MEMORY and args:
            given = args[0]
            # no isinstance: symbols of a trace refuse to give their type
            key = self._snapshot.holds(given) if issubclass(type(given), Tensor) else None
            if key is not None:
                self._snapshot.keep(key)
        return func(*args, **(kwargs or {}))


class _Writes(TorchDispatchMode):
    supports_higher_order_operators = True

    def __init__(self, snapshot: Snapshot, report: Callable[[int], None]) -> None:
        super().__init__()
        self._snapshot, self._report = snapshot, report
        self._fakes: dict[
            int, tuple[Any, int]
        ] = {}  # memory of fake views, held, and the memory they stand for

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        places, names, said = _written(func)
        written = [args[i] for i in places if i < len(args)] + [kwargs[n] for n in names if n in kwargs]
        for value in written:
            for tensor in value if isinstance(value, (list, tuple)) else (value,):
                key = self._key(tensor)
                if key is not None:
                    self._snapshot.keep(key)
                    if said:
                        self._report(key)
        result = func(*args, **kwargs)
        if _is_view(func) and type(result) is FakeTensor and type(args[0]) is not FakeTensor:
            key = self._snapshot.holds(args[0])
            if key is not None:  # in a fake run, `.data` of a real tensor is a fake one
                storage = result.untyped_storage()
                self._fakes[storage._cdata] = storage, key
        return result

    def _key(self, tensor: Any) -> int | None:
        if not isinstance(tensor, Tensor):
            return None
        if type(tensor) is FakeTensor:
            return self._fakes.get(tensor.untyped_storage()._cdata, (None, None))[1]
        return self._snapshot.holds(tensor)


@functools.cache
def _written(func: Any) -> tuple[tuple[int, ...], tuple[str, ...], bool]:
    """The arguments that an operation writes to, by position and by name, and whether it certainly does."""
    schema = getattr(func, "_schema", None)
    if schema is None:  # a higher-order one
        return (), (), False
    arguments = list(enumerate(schema.arguments))
    said = [(i, a.name) for i, a in arguments if a.alias_info is not None and a.alias_info.is_write]
    if said:
        return tuple(i for i, _ in said), tuple(n for _, n in said), True
    if "batch_norm" in schema.name:  # changes running statistics in training, which its schema does not say
        said = [(i, a.name) for i, a in arguments if a.name in ("running_mean", "running_var")]
    return tuple(i for i, _ in said), tuple(n for _, n in said), False


@functools.cache
def _is_view(func: Any) -> bool:
    """Whether an operation gives a view of its first argument."""
    schema = getattr(func, "_schema", None)
    first = None if schema is None or not schema.arguments else schema.arguments[0].alias_info
    return first is not None and not first.is_write


@contextlib.contextmanager
def watching(snapshot: Snapshot, report: Callable[[int], None]) -> Iterator[None]:
    """Keep the values of tensors before they are written to.

    Args:
        snapshot: of the tensors; other tensors are ignored.
        report: is called with the number (see `Snapshot.holds`) of each piece of memory that is written to.
    """
    with _Lent(snapshot), _Writes(snapshot, report):
        yield


def setter(func: Any) -> str:
    """The attribute of a tensor that a function sets, or nothing."""
    if getattr(func, "__name__", "") != "__set__":
        return ""
    return _SETTERS.get(func, "")
