"""Float layers that are products with a matrix, and means: steps of the library where that is faster."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from binarize.native import structs
from binarize.runtime import ops
from binarize.runtime.program.lowering import Lowering, rows
from binarize.runtime.program.operators.registry import is_dense, lowers

aten = torch.ops.aten
_ROWS = 64
"""Most rows of a product on the library's kernel; oneDNN is faster with more."""


@lowers(ops.linear)
def linear(
    lowering: Lowering,
    node: fx.Node,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    op: str,
    p: float,
    q: float,
) -> Any:
    """Y = op(x W^T + b), rows being all positions."""
    maps = weight.dim() == 4
    outputs, inputs = weight.shape[:2]
    x = x.movedim(1, -1) if maps else x
    count = x.numel() // max(inputs, 1)
    flat = _as_rows(x, count, inputs)
    if flat is None or count > _ROWS or not count:
        return NotImplemented
    shape = tuple(node.meta["val"].shape)
    out = lowering.empty(shape) if maps else lowering.rows(shape)
    made = _as_rows(out.movedim(1, -1) if maps else out, count, outputs)
    if made is None:
        return NotImplemented
    tail = ops.tail_of_arguments(weight, bias).packed(inputs)
    step = structs.LinearStep(rows=count, inputs=inputs, outputs=outputs, op=structs.OPS[op], p=p, q=q)
    step.x_row, step.y_row = flat.stride(0), made.stride(0)
    step.weights = tail.rows.data_ptr()
    step.add = None if tail.shifts is None else tail.shifts.data_ptr()
    lowering.hold(tail)
    lowering.point(step, "x", flat)
    lowering.point(step, "y", made)
    lowering.native("linear", step)
    return out


def _as_rows(x: Tensor, count: int, columns: int) -> Tensor | None:
    """(count, columns) as a view; None where that does not go."""
    try:
        flat = x.view(count, columns)
    except RuntimeError:
        return None
    return flat if columns == 1 or flat.stride(1) == 1 else None


@lowers(ops.mean)
def mean(lowering: Lowering, node: fx.Node, x: Tensor, sums: Tensor | None) -> Any:
    """Means over positions, (N, C, 1, 1)."""
    if x.shape[1] > 1 and x.stride(1) != 1 and sums is None:
        return NotImplemented
    n, c, h, w = x.shape
    out = lowering.empty((n, c, 1, 1))
    step = structs.MeanStep(images=n, height=h, width=w, channels=c)
    lowering.map(step.x, x)
    lowering.point(step, "sums", sums)
    lowering.point(step, "out", out)
    lowering.native("mean", step)
    return out


@lowers(aten.layer_norm.default)
def layer_norm(
    lowering: Lowering,
    node: fx.Node,
    x: Tensor,
    shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *others: Any,
) -> Any:
    """Over the last dim."""
    if len(shape) != 1 or x.dtype != torch.float32 or (x.dim() > 1 and x.stride(-1) != 1 and x.shape[-1] > 1):
        return NotImplemented
    count = x.numel() // max(x.shape[-1], 1)
    out = lowering.strided(tuple(x.shape), _dense_strides(x))
    flat, made = (_as_rows(t, count, t.shape[-1]) for t in (x, out))
    if flat is None or made is None:
        return NotImplemented
    step = structs.LayerNormStep(images=1, height=1, width=count, channels=x.shape[-1], eps=eps)
    for structure, t in ((step.x, flat), (step.out, made)):
        structure.pixel, structure.channel = t.stride(0), 1
        lowering.point(structure, "data", t)
    for name, vector in (("weight", weight), ("bias", bias)):
        if vector is not None:
            held = vector.detach().contiguous()
            lowering.hold(held)
            setattr(step, name, held.data_ptr())
    lowering.native("layer_norm", step)
    return out


def _dense_strides(x: Tensor) -> tuple[int, ...]:
    return x.stride() if is_dense(x) else rows(x.shape)
