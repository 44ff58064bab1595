"""Values that only move: rolled maps and padding are copies of the library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from binarize.native import structs
from binarize.runtime.program.lowering import Lowering
from binarize.runtime.program.operators.registry import lowers, strides_like
from binarize.runtime.program.operators.views import copy

aten = torch.ops.aten


@lowers(aten.roll.default)
def roll(
    lowering: Lowering, node: fx.Node, x: Tensor, shifts: Sequence[int], dims: Sequence[int] = ()
) -> Any:
    """Each dim is cut into two parts, which change places."""
    sizes = [x.shape[d] for d in dims]
    if not dims or len({d % x.dim() for d in dims}) != len(dims) or 0 in sizes or not _copies(x):
        return NotImplemented
    out = lowering.strided(x.shape, strides_like(x, x.shape))
    parts = [(x, out)]
    for dim, size, shift in zip(dims, sizes, shifts, strict=True):
        at = shift % size  # where the first value goes
        cut = [(0, at, size - at)] + ([(size - at, 0, at)] if at else [])
        parts = [
            (a.narrow(dim, start, length), b.narrow(dim, to, length))
            for a, b in parts
            for start, to, length in cut
        ]
    for a, b in parts:
        copy(lowering, a, b)
    return out


@lowers(aten.pad.default, aten.constant_pad_nd.default)
def pad(
    lowering: Lowering, node: fx.Node, x: Tensor, amounts: Sequence[int], *others: Any, **named: Any
) -> Any:
    """The map, and a number around it; a negative amount cuts."""
    given = others if node.target is aten.pad.default else ("constant", *others)
    mode, value = (*given, *("constant", None)[len(given) :])
    value = named.get("value", value)
    shape = tuple(node.meta["val"].shape)
    if named.get("mode", mode) != "constant" or not _copies(x) or 0 in shape:
        return NotImplemented
    out = lowering.strided(shape, strides_like(x, shape))
    sides = list(zip(amounts[::2], amounts[1::2], strict=True))
    kept = [x.shape[-1 - i] - max(-before, 0) - max(-behind, 0) for i, (before, behind) in enumerate(sides)]
    if min(kept, default=1) <= 0:  # nothing of the map is left
        fill(lowering, out, float(value or 0))
        return out
    inside, source = out, x
    for i, (before, behind) in enumerate(sides):
        dim = x.dim() - 1 - i
        size = inside.shape[dim]
        for start, length in ((0, before), (size - behind, behind)):
            if length > 0:
                fill(lowering, inside.narrow(dim, start, length), float(value or 0))
        source = source.narrow(dim, max(-before, 0), kept[i])
        inside = inside.narrow(dim, max(before, 0), kept[i])
    copy(lowering, source, inside)
    return out


def fill(lowering: Lowering, out: Tensor, value: float) -> None:
    """Add the step that writes one number everywhere; of at most six dims."""
    step = structs.CopyStep(dims=out.dim(), value=value)
    for i, (size, stride) in enumerate(zip(out.shape, out.stride(), strict=True)):
        step.size[i], step.to[i] = size, stride
    lowering.point(step, "y", out)
    lowering.native("copy", step)


def _copies(x: Tensor) -> bool:
    return x.dtype == torch.float32 and 0 < x.dim() <= structs.COPY_DIMS and x.numel() > 0
