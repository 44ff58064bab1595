"""Float layers that are products with a matrix, and means: steps of the library where that is faster."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from binarize.native import structs
from binarize.native.instruction_set import resolve
from binarize.runtime import ops
from binarize.runtime.program.lowering import Lowering
from binarize.runtime.program.operators.registry import lowers

_ROWS = {"portable": 64, "avx2": 64}
"""Most rows of a product on the library's kernel: with more, oneDNN is faster there."""


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
    *,
    rounded: Tensor | None = None,
) -> Any:
    """Y = op(x W^T + b), rows being all positions."""
    maps = weight.dim() == 4
    outputs, inputs = weight.shape[:2]
    x = x.movedim(1, -1) if maps else x
    count = x.numel() // max(inputs, 1)
    flat = as_rows(x, count, inputs)
    dense = (rounded is not None or weight.stride(1) == 1) and (bias is None or bias.stride(0) == 1)
    if flat is None or count > _ROWS.get(resolve(), count) or not count or not dense:
        return NotImplemented
    shape = tuple(node.meta["val"].shape)
    out = lowering.empty(shape) if maps else lowering.rows(shape)
    made = as_rows(out.movedim(1, -1) if maps else out, count, outputs)
    if made is None:
        return NotImplemented
    step = structs.LinearStep(rows=count, inputs=inputs, outputs=outputs, op=structs.OPS[op], p=p, q=q)
    step.x_row, step.y_row, step.weights_row = flat.stride(0), made.stride(0), weight.stride(0)
    if rounded is None:  # read where they lie at each call: changes past torch (NumPy, `.data`) reach no copy
        lowering.point(step, "weights", weight.detach())
    else:
        lowering.point(step, "bf16_weights", rounded)
    lowering.point(step, "add", None if bias is None else bias.detach())
    lowering.point(step, "x", flat)
    lowering.point(step, "y", made)
    lowering.native("linear", step)
    return out


def as_rows(x: Tensor, count: int, columns: int) -> Tensor | None:
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
