"""Packed weights, made once for each layer: the layer's module, its programs and its operator share them."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor

from binarize.bounded_cache import BoundedCache
from binarize.native.instruction_set import resolve
from binarize.runtime.kernel_support import why_not
from binarize.runtime.layer_data import LayerData
from binarize.runtime.native_layer import NativeLayer
from binarize.runtime.native_planes import NativePlanes

_SINGLE = 256
_shared: weakref.WeakValueDictionary[Any, NativeLayer | NativePlanes] = weakref.WeakValueDictionary()
_single: BoundedCache[Any, NativeLayer | NativePlanes] = BoundedCache(_SINGLE)
"""Those of operators that are called one by one, which nothing else would keep."""


def native_layer(
    data: LayerData, *, threads: int | None = None, exact_scales: bool = True, keep: bool = False
) -> NativeLayer | NativePlanes | None:
    """What the kernels need of a layer, for its tensors as they are now; None if torch computes it.

    Args:
        data: the layer.
        threads: of the kernels; None for as many as torch has.
        exact_scales: see `RuntimeOptions`.
        keep: hold the result for later calls; otherwise the caller does.
    """
    if why_not(data, exact_scales=exact_scales) is not None:
        return None
    while True:
        marks = _marks(data)
        # weights are packed for an instruction set
        key = (data.spec, marks, threads, exact_scales, resolve())
        found = _shared.get(key)
        # memory that a layer's tensors have left may hold another layer's by now
        if found is None or _marks(found.data) != marks:
            kind = NativePlanes if data.spec.sum_of_binary else NativeLayer
            found = kind(data, threads=threads, exact_scales=exact_scales)
        if _marks(data) == marks:
            break
        # another thread (the queue of a process) moved the tensors meanwhile: freed memory may have been read
    _shared[key] = found
    return _single.keep(key, found) if keep else found


def _tensors(data: LayerData) -> list[Tensor]:
    inner = data.inner
    arrays = () if inner is None else (inner.before, inner.negative, inner.positive, inner.after)
    return [data.bits, data.vectors, *(t for t in arrays if t is not None)]


def _marks(data: LayerData) -> tuple[Any, ...]:
    return tuple(_mark(t) for t in _tensors(data))


def _mark(tensor: Tensor) -> tuple[int, int, torch.dtype]:
    """What changes when a tensor's values or memory do."""
    return tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version, tensor.dtype
