"""Pools and resizes of maps: one step of the library each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from binarize.native import structs
from binarize.runtime.program.lowering import Lowering
from binarize.runtime.program.operators.registry import lowers

aten = torch.ops.aten


def pool(lowering: Lowering, x: Tensor, out: Tensor, windows: Sequence[int] = (), **options: int) -> None:
    """Add a pool of x to `out`, both (N, C, H, W) with their channels next to each other.

    Args:
        lowering: takes the step.
        x: map.
        out: where the result goes.
        windows: kernel, stride and padding, two numbers each; empty for an adaptive pool.
        options: `average`, `count_include_pad`, `divisor` and `adaptive` of `bz_pool_step`.
    """
    n, c, h, w = x.shape
    step = structs.PoolStep(images=n, channels=c, height=h, width=w, **options)
    step.geometry = structs.Pool(*(windows or (0,) * 6), *out.shape[2:])
    lowering.map(step.x, x)
    lowering.map(step.out, out)
    lowering.native("pool", step)


@lowers(aten.max_pool2d.default)
def max_pool(
    lowering: Lowering,
    node: fx.Node,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> Any:
    """Largest value of each window."""
    if not is_map(x) or any(d != 1 for d in dilation):
        return NotImplemented
    out = lowering.placed_or_empty(node, node.meta["val"].shape)
    pool(lowering, x, out, _windows(kernel, stride, padding))
    return out


@lowers(aten.avg_pool2d.default)
def average_pool(
    lowering: Lowering,
    node: fx.Node,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> Any:
    """Mean of each window."""
    if not is_map(x):
        return NotImplemented
    out = lowering.placed_or_empty(node, node.meta["val"].shape)
    counts = {"count_include_pad": int(count_include_pad), "divisor": divisor or 0}
    pool(lowering, x, out, _windows(kernel, stride, padding), average=1, **counts)
    return out


@lowers(aten.adaptive_avg_pool2d.default)
def adaptive_pool(lowering: Lowering, node: fx.Node, x: Tensor, size: Sequence[int]) -> Any:
    """Means of as many windows as the result has positions."""
    if not is_map(x):
        return NotImplemented
    out = lowering.placed_or_empty(node, node.meta["val"].shape)
    pool(lowering, x, out, average=1, adaptive=1)
    return out


@lowers(aten.upsample_bilinear2d.vec)
def bilinear(
    lowering: Lowering,
    node: fx.Node,
    x: Tensor,
    size: Sequence[int] | None,
    align_corners: bool,
    scales: Sequence[float] | None = None,
) -> Any:
    """Bilinear interpolation to a size, or by factors."""
    return _resize(lowering, node, x, "bilinear_aligned" if align_corners else "bilinear", scales)


@lowers(aten.upsample_nearest2d.vec, aten._upsample_nearest_exact2d.vec)
def nearest(
    lowering: Lowering,
    node: fx.Node,
    x: Tensor,
    size: Sequence[int] | None,
    scales: Sequence[float] | None = None,
) -> Any:
    """Nearest neighbours as torch's modes `nearest` and `nearest-exact` choose them."""
    exact = node.target is aten._upsample_nearest_exact2d.vec
    return _resize(lowering, node, x, "nearest_exact" if exact else "nearest", scales)


def _resize(lowering: Lowering, node: fx.Node, x: Tensor, mode: str, scales: Sequence[float] | None) -> Any:
    if not is_map(x):
        return NotImplemented
    out = lowering.placed_or_empty(node, node.meta["val"].shape)
    n, c, h, w = x.shape
    step = structs.ResizeStep(images=n, channels=c, height=h, width=w, out_h=out.shape[2], out_w=out.shape[3])
    step.mode = structs.RESIZE_MODES[mode]
    if scales is not None:
        step.step_h, step.step_w = (1 / scale for scale in scales)
    lowering.map(step.x, x)
    lowering.map(step.out, out)
    lowering.native("resize", step)
    return out


def is_map(x: Tensor) -> bool:
    """Whether the library reads a tensor as a map: float, (N, C, H, W), channels next to each other."""
    last = x.dim() == 4 and (x.stride(1) == 1 or x.shape[1] == 1)
    return last and x.dtype == torch.float32 and x.numel() > 0


def _windows(kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> list[int]:
    """Two numbers each, where one stands for both."""
    parts = (kernel, stride or kernel, padding)
    return [n for part in parts for n in (part if len(part) == 2 else (part[0], part[0]))]
