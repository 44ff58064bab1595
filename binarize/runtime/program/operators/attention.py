"""Attention: one step of the library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from binarize.native import structs
from binarize.runtime import ops
from binarize.runtime.program.lowering import Lowering, rows
from binarize.runtime.program.operators.registry import lowers
from binarize.runtime.program.operators.views import copy

_DIMS = 3  # image, window, head
_SCRATCH = 1 << 28  # floats that the library takes at most


@lowers(ops.attention)
def attention(
    lowering: Lowering,
    node: fx.Node,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Sequence[Tensor],
    factor: float,
    masked_is_zero: bool,
) -> Any:
    """One step; queries, keys and values are read where they lie if their last dim is dense.

    The result lies as (..., L, heads, E), so that the merging of heads that follows is a view.
    """
    lead, (length, depth) = q.shape[:-2], q.shape[-2:]
    columns, values = v.shape[-2:]
    scores = (*lead, length, columns)
    given = [q, k, v, *bias]
    if any(t.dtype != torch.float32 for t in given) or not lead or 0 in (*scores, depth, values):
        return NotImplemented
    if (columns + 64) * (depth + values + 128) > _SCRATCH:
        return NotImplemented
    dense = [_dense(lowering, t) for t in (q, k, v)]
    dense += [_dense(lowering, t.expand(*t.shape[:-1], columns)) for t in bias]
    if any(t is None for t in dense):
        return NotImplemented
    out = lowering.rows((*lead[:-1], length, lead[-1], values)).transpose(-3, -2)
    shapes = [(*lead, length, depth), (*lead, columns, depth), (*lead, columns, values)]
    shapes += [scores for _ in bias]
    wide = [t.expand(s) for t, s in zip(dense, shapes, strict=True) if t is not None]
    merged = _merged([*wide, out], len(lead))
    if merged is None:
        return NotImplemented
    size, strides = merged
    step = structs.AttentionStep(*size, length, columns, depth, values, int(masked_is_zero), factor)
    places = [step.q, step.k, step.v, *(step.bias[i] for i in range(len(bias))), step.out]
    for structure, tensor, steps in zip(places, [*wide, out], strides, strict=True):
        structure.image, structure.window, structure.head = steps
        structure.row = tensor.stride(-2)
        lowering.point(structure, "data", tensor)
    lowering.hold(step)
    lowering.native("attention", step)
    return out


def _dense(lowering: Lowering, x: Tensor) -> Tensor | None:
    """The tensor if its last dim is dense, else a copy that is; None where the library cannot copy."""
    if x.shape[-1] == 1 or x.stride(-1) == 1:
        return x
    out = lowering.strided(x.shape, rows(x.shape), x.dtype)
    return out if copy(lowering, x, out) else None


def _merged(tensors: Sequence[Tensor], lead: int) -> tuple[list[int], list[list[int]]] | None:
    """Sizes of (image, window, head), and their strides in each tensor; None where there are more dims."""
    shape = tensors[0].shape
    groups: list[list[int]] = []
    for d in range(lead):
        if shape[d] == 1:
            continue
        outer = groups[-1][-1] if groups else None
        if outer is not None and all(t.stride(outer) == t.stride(d) * shape[d] for t in tensors):
            groups[-1].append(d)
        else:
            groups.append([d])
    if len(groups) > _DIMS:
        return None
    pad = _DIMS - len(groups)
    sizes = [1] * pad + [math.prod(shape[d] for d in group) for group in groups]
    return sizes, [[0] * pad + [t.stride(group[-1]) for group in groups] for t in tensors]
