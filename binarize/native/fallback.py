"""The kernels' functions on torch alone: the same numbers, slower; used where the library is missing.

Planes have the library's layout. Weights are packed flat, 32 to a word, and unpacked at each call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from binarize.native.epilogue import Activation, Epilogue
from binarize.native.structs import SLACK
from binarize.native.types import BitPlane, MaxPool, Norm, PackedWeights


def pack_bits(bits: Tensor) -> Tensor:
    """(..., n) bool to (..., ceil(n / 32)) int32, the first bit lowest."""
    rest = -bits.shape[-1] % 32
    spread = F.pad(bits.long(), (0, rest)).unflatten(-1, (-1, 32)) << torch.arange(32)
    words = spread.sum(-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).int()


def unpack_bits(words: Tensor, count: int) -> Tensor:
    """(..., ceil(count / 32)) int32 to (..., count) float32 of +1 and -1."""
    bits = (words.unsqueeze(-1) >> torch.arange(32, dtype=torch.int32)) & 1
    return bits.flatten(-2)[..., :count].float() * 2 - 1


def pack(
    x: Tensor,
    mul: Tensor | None,
    add: Tensor | None,
    groups: int,
    border: tuple[int, int],
    abs_sums: Tensor | None,
) -> Tensor:
    """The words of `packing.pack`."""
    if mul is not None:
        x = x * mul[:, None, None]
    if add is not None:
        x = x + add[..., None, None]
    if abs_sums is not None:
        abs_sums.copy_(x.abs().sum((2, 3), dtype=torch.float64))
    bits = (x >= 0).movedim(1, -1).unflatten(-1, (groups, -1))
    words = F.pad(pack_bits(bits), (0, 0, 0, 0, border[1], border[1], border[0], border[0]))
    return F.pad(words.flatten(), (0, SLACK))


def unpack(plane: BitPlane) -> Tensor:
    """(N, C, H, W) float32 of +1 and -1."""
    words = plane.words[: plane.words.numel() - SLACK].view(plane.grid)
    (h, w), inside = plane.border, plane.channels // plane.groups
    words = words[:, h : h + plane.height, w : w + plane.width]
    return unpack_bits(words, inside).flatten(-2).movedim(-1, 1)


def unpacked(weights: PackedWeights) -> Tensor:
    """Weights packed for "torch" as +1 and -1, (Cout, Cin / groups, h, w) float32."""
    inside = weights.in_channels // weights.groups
    flat = unpack_bits(weights.words, inside * weights.kernel[0] * weights.kernel[1])
    return flat.unflatten(1, (inside, *weights.kernel))


def channel_sums(x: Tensor) -> Tensor:
    """(N, C, H, W) to (N, C)."""
    return x.sum((2, 3), dtype=torch.float64).float()


def conv(plane: BitPlane, weights: PackedWeights, size: Sequence[int], alpha: Tensor | None = None) -> Tensor:
    """Sums, (N, Cout, *size) float32; integers up to 2^24 are exact."""
    x = unpack(plane)
    if alpha is not None:
        x = x * alpha[:, :, None, None]
    return _convolve(x, weights, unpacked(weights), size)


def conv_values(plane: BitPlane, weights: PackedWeights, size: Sequence[int], e: Epilogue) -> Tensor:
    """Sums of products of weights +-mul + offset and activations +-1 + lift, (N, Cout, *size) float32."""
    x, signs = unpack(plane), unpacked(weights)
    ones = torch.ones_like(signs)
    mul, offset = (
        torch.full((weights.out_channels, 1, 1), float(usual)) if given is None else given[:, None, None]
        for given, usual in ((e.mul, 1), (e.offset, 0))
    )
    # All four are whole numbers, and so exact; the last two depend on the position's taps inside.
    count, box = _convolve(x, weights, signs, size), _convolve(x, weights, ones, size)
    inside = torch.ones_like(x[:1])
    weight_sum, products = _convolve(inside, weights, signs, size), _convolve(inside, weights, ones, size)
    if e.steps:
        return (count + e.lift * weight_sum) * mul
    fixed = e.lift * (mul.double() * weight_sum + offset.double() * products)
    return count * mul + fixed.float() + box * offset


def _convolve(x: Tensor, weights: PackedWeights, filters: Tensor, size: Sequence[int]) -> Tensor:
    """(N, C, H, W) to (N, Cout, *size) by the geometry of `weights`; zeros without taps."""
    if 0 in weights.kernel:
        return torch.zeros(x.shape[0], weights.out_channels, *size)
    pads: list[int] = []
    for axis in (1, 0):
        low, n = weights.padding[axis], x.shape[2 + axis]
        reach = weights.dilation[axis] * (weights.kernel[axis] - 1) + 1
        pads += [low, (size[axis] - 1) * weights.stride[axis] + reach - low - n]
    x = F.pad(x, pads)  # negative: cropped
    return F.conv2d(x, filters, stride=weights.stride, dilation=weights.dilation, groups=weights.groups)


def finish(y: Tensor, e: Epilogue) -> Tensor:
    """The epilogue's operations in its order, each rounded to float32."""
    if e.mul is not None:
        y = y * e.mul[:, None, None]
    if e.sample_scale is not None:
        y = y * e.sample_scale[:, None, None, None]
    if e.add is not None:
        y = y + e.add[:, None, None]
    y = activate(y, e.first)
    if e.bypass is not None:
        y = y + widen(e.bypass if e.resize is None else e.resize(e.bypass), y.shape[1])
    y = activate(y, e.second)
    if e.residual is not None:
        y = y + e.residual
    if e.sums is not None:
        e.sums.copy_(y.sum((2, 3), dtype=torch.float64))
    return y if e.tail is None else F.conv2d(y, e.tail.weight[:, :, None, None], e.tail.bias)


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
    norm: Norm | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    pool: MaxPool | None,
) -> Tensor:
    """The result of `stem.PreparedStem`."""
    y = F.conv2d(x, weight, stride=stride, padding=padding)
    if norm is not None:  # of sum * mul + add
        y = finish(y, replace(e, first=replace(e.first, kind="none"), second=replace(e.second, kind="none")))
        y = F.batch_norm(y, norm.mean, norm.variance, norm.weight, norm.bias, eps=norm.eps)
        e = replace(e, mul=None, add=None)
    y = finish(y, e)
    if pool is not None:
        y = F.max_pool2d(y, pool.kernel, pool.stride, pool.padding)
    return y.contiguous(memory_format=torch.channels_last)


def widen(x: Tensor, channels: int) -> Tensor:
    """(N, C, H, W) to `channels` channels: whole copies, then the means of the merged groups."""
    copies, merged = divmod(channels, x.shape[1])
    parts = [x] * copies
    if merged:
        strided = x.shape[1] // merged * (merged - 1)
        if merged > 1:
            parts.append(x[:, :strided].unflatten(1, (-1, merged - 1)).mean(1))
        parts.append(x[:, strided:].mean(1, keepdim=True))
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]
