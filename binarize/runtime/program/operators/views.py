"""Views, and what copies because no view can be it: permutations, reshapes, slices, concatenation."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from binarize.native import structs
from binarize.runtime.program.lowering import Lowering, rows
from binarize.runtime.program.operators.registry import callable_of, lowers, same_memory

aten = torch.ops.aten
VIEWS = (
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.permute.default,
    aten.transpose.int,
    aten.t.default,
    aten.mT.default,
    aten.adjoint.default,
    aten.movedim.int,
    aten.movedim.intlist,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.expand.default,
    aten.slice.Tensor,
    aten.select.int,
    aten.narrow.default,
    aten.detach.default,
    aten.alias.default,
)
SPLITS = (
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.chunk.default,
    aten.unbind.int,
    aten.split.sizes,
    aten.tensor_split.sections,
)
SAME = (aten.contiguous.default, aten.clone.default, aten.lift_fresh_copy.default)
"""They change where values lie, not the values; a program decides that itself."""
WRITE_NOTHING: set[object] = {*VIEWS, *SPLITS, *SAME, operator.getitem, aten.cat.default}
"""Results that lie elsewhere: their place cannot be chosen."""


@lowers(operator.getitem)
def item(lowering: Lowering, node: fx.Node, values: Any, index: Any) -> Any:
    """An element of several results."""
    return values[index]


@lowers(*SPLITS)
def split(lowering: Lowering, node: fx.Node, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Views of parts."""
    return tuple(callable_of(node)(x, *args, **kwargs))


@lowers(*SAME)
def same(lowering: Lowering, node: fx.Node, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """The tensor itself."""
    return x


@lowers(*VIEWS)
def view(lowering: Lowering, node: fx.Node, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """A view where strides allow it, else a copy."""
    try:
        y = callable_of(node)(x, *args, **kwargs)
    except RuntimeError:  # no view of these strides
        y = None
    if y is not None and same_memory(y, x):
        return y
    shape = node.meta["val"].shape
    if x.numel() != math.prod(shape):
        return NotImplemented
    out = lowering.strided(shape, rows(shape), x.dtype)
    if not copy(lowering, x, out.view(x.shape)):
        return NotImplemented
    return out


def copy(lowering: Lowering, x: Tensor, out: Tensor) -> bool:
    """Add the step that copies values to a place of the same shape; False where the library cannot."""
    dims = [(n, a, b) for n, a, b in zip(x.shape, x.stride(), out.stride(), strict=True) if n != 1]
    merged: list[tuple[int, int, int]] = []
    for size, a, b in dims:  # neighbours that are one dimension in both
        if merged and merged[-1][1] == a * size and merged[-1][2] == b * size:
            merged[-1] = (merged[-1][0] * size, a, b)
        else:
            merged.append((size, a, b))
    if x.dtype != torch.float32 or len(merged) > structs.COPY_DIMS:
        return False
    step = structs.CopyStep(dims=len(merged))
    for i, (size, a, b) in enumerate(merged):
        step.size[i], step.from_[i], step.to[i] = size, a, b
    lowering.point(step, "x", x)
    lowering.point(step, "y", out)
    lowering.native("copy", step)
    return True


def dense(lowering: Lowering, x: Tensor) -> Tensor | None:
    """A tensor with contiguous strides, or a copy that each call makes; None if it is not in float32."""
    if x.dtype == torch.float32 and x.is_contiguous():
        return x.detach()
    out = lowering.rows(tuple(x.shape))
    return out if copy(lowering, x.detach(), out) else None


@lowers(aten.cat.default)
def cat(lowering: Lowering, node: fx.Node, tensors: Sequence[Tensor], dim: int = 0) -> Any:
    """Parts that were not written in place are copied to it."""
    shape = tuple(node.meta["val"].shape)
    placed = lowering.placed(node)
    out = lowering.empty(shape, tensors[0].dtype) if placed is None else placed
    at = 0
    for part in tensors:
        if part.numel() == 0:
            continue
        size = part.shape[dim]
        place = out.narrow(dim, at, size)
        at += size
        if same_memory(part, place) and part.storage_offset() == place.storage_offset():
            continue
        if not copy(lowering, part, place):
            return NotImplemented
    return out
