"""The kernels' functions on torch alone: what the tests hold the kernels against.

Results have the dtype of the maps or sums that come in. In float32 each operation is rounded as in the
kernels, which then give the same bits where a docstring says so; float64 is for comparisons within a bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from binarize.functional import channel_bypass
from binarize.native import Activation, BitPlane, Epilogue, MaxPool, Norm, PackedWeights, unpack
from binarize.native.structs import SLACK


def signs(x: Tensor) -> Tensor:
    """+1 for x >= 0, -0.0 included, else -1, float64."""
    return torch.where(x >= 0, 1.0, -1.0).double()


def pack(x: Tensor, mul: Tensor | None, add: Tensor | None, groups: int, border: tuple[int, int]) -> Tensor:
    """The words of `native.pack`, slack included: the same bits."""
    if mul is not None:
        x = x * mul[:, None, None]
    if add is not None:
        x = x + add[..., None, None]
    bits = (x >= 0).movedim(1, -1).unflatten(-1, (groups, -1))
    words = F.pad(pack_bits(bits), (0, 0, 0, 0, border[1], border[1], border[0], border[0]))
    return F.pad(words.flatten(), (0, SLACK))


def pack_bits(bits: Tensor) -> Tensor:
    """(..., n) bool to (..., ceil(n / 32)) int32, the first bit lowest."""
    rest = -bits.shape[-1] % 32
    spread = F.pad(bits.long(), (0, rest)).unflatten(-1, (-1, 32)) << torch.arange(32)
    words = spread.sum(-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).int()


def conv(plane: BitPlane, weight: Tensor, geometry: PackedWeights, e: Epilogue) -> Tensor:
    """The result of `native.conv` for weights (Cout, Cin / groups, h, w), without the epilogue's sums.

    The same bits in float32, where neither a bypass is merged to fewer channels nor a tail follows.
    """
    size = geometry.out_size(plane.height, plane.width)
    if e.plain:
        return finish(convolve(unpack(plane), signs(weight).float(), geometry, size), e)
    return finish(values(plane, weight, geometry, size, e), replace(e, mul=None))


def values(
    plane: BitPlane, weight: Tensor, geometry: PackedWeights, size: Sequence[int], e: Epilogue
) -> Tensor:
    """Sums of products of weights +-mul + offset and activations +-1 + midpoint, (N, Cout, *size) float32."""
    x, filters = unpack(plane), signs(weight).float()
    ones = torch.ones_like(filters)
    mul, offset = (
        torch.full((geometry.out_channels, 1, 1), float(usual)) if given is None else given[:, None, None]
        for given, usual in ((e.mul, 1), (e.offset, 0))
    )
    # All four are whole numbers, and so exact; the last two depend on which taps lie inside.
    count, window_sum = convolve(x, filters, geometry, size), convolve(x, ones, geometry, size)
    inside = torch.ones_like(x[:1])
    weight_sum, products = convolve(inside, filters, geometry, size), convolve(inside, ones, geometry, size)
    if e.steps:
        return (count + e.midpoint * weight_sum) * mul
    midpoint = float(torch.tensor(e.midpoint, dtype=torch.float32))  # as the library reads it
    fixed = midpoint * (mul.double() * weight_sum + offset.double() * products)
    return count * mul + fixed.float() + window_sum * offset


def convolve(x: Tensor, filters: Tensor, geometry: PackedWeights, size: Sequence[int]) -> Tensor:
    """(N, C, H, W) to (N, Cout, *size); zeros for a kernel without taps."""
    if 0 in geometry.kernel:
        return x.new_zeros(x.shape[0], geometry.out_channels, *size)
    pads: list[int] = []
    for axis in (1, 0):
        low, n = geometry.padding[axis], x.shape[2 + axis]
        reach = geometry.dilation[axis] * (geometry.kernel[axis] - 1) + 1
        pads += [low, (size[axis] - 1) * geometry.stride[axis] + reach - low - n]
    x = F.pad(x, pads)  # negative: cropped
    return F.conv2d(x, filters, stride=geometry.stride, dilation=geometry.dilation, groups=geometry.groups)


def finish(y: Tensor, e: Epilogue) -> Tensor:
    """The epilogue's operations in its order, each rounded to the dtype of `y`; its sums are not written."""
    if e.mul is not None:
        y = y * e.mul[:, None, None]
    if e.sample_scale is not None:
        y = y * e.sample_scale[:, None, None, None]
    if e.add is not None:
        y = y + e.add[:, None, None]
    y = activate(y, e.first)
    if e.bypass is not None:
        bypass = e.bypass if e.resize is None else e.resize(e.bypass)
        y = y + channel_bypass(bypass.to(y.dtype), y.shape[1])
    y = activate(y, e.second)
    if e.residual is not None:
        y = y + e.residual
    if e.tail is None:
        return y
    bias = None if e.tail.bias is None else e.tail.bias.to(y.dtype)
    return F.conv2d(y, e.tail.weight.to(y.dtype)[:, :, None, None], bias)


def activate(y: Tensor, a: Activation) -> Tensor:
    """(N, C, H, W) to the same."""
    if a.kind == "none":
        return y
    if a.kind == "clamp":
        return y.clamp(a.low, a.high)
    before, negative, positive, after = (
        None if v is None else v[:, None, None] for v in (a.before, a.negative, a.positive, a.after)
    )
    y = y if before is None else y + before
    below = torch.zeros_like(y) if negative is None else y * negative
    y = torch.where(y < 0, below, y if positive is None else y * positive)
    return y if after is None else y + after


def stem(
    x: Tensor,
    weight: Tensor,
    e: Epilogue,
    *,
    norm: Norm | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    pool: MaxPool | None = None,
) -> Tensor:
    """The result of `native.conv_stem`, whose sums may be added in another order."""
    y = F.conv2d(x, weight.to(x.dtype), stride=stride, padding=padding)
    if norm is not None:  # of sum * mul + add
        y = finish(y, Epilogue(mul=e.mul, add=e.add))
        mean, variance, weight_, bias = (None if t is None else t.to(y.dtype) for t in norm.tensors)
        y = F.batch_norm(y, mean, variance, weight_, bias, eps=norm.eps)
        e = replace(e, mul=None, add=None)
    y = finish(y, e)
    return y if pool is None else F.max_pool2d(y, pool.kernel, pool.stride, pool.padding)
