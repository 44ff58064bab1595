r"""The channel-adaptive full-precision bypass (CFB): any number of channels in, any number out.

A binary convolution loses most of what it is given; the bypass carries the real values around it. Where both
sides have equally many channels it is the identity, elsewhere a fixed linear map without parameters:

    r = Cout div Cin,   m = Cout mod Cin
    y = (x; x; ...; x; merged)      x tiled r times, block after block, then m merged channels of x

Each merged channel is the mean of one group of input channels (`merge_groups`), and every input channel
enters exactly one group: nothing is left out, neither where channels shrink nor in the remainder where they
grow.

Source: BiDense (arXiv 2411.10346), Section 3.3, Eqs. 12 and 13, in the strided reading of the authors' code
for images. Departure: m = 1, on which that code fails, is the mean of all channels, as the formula says.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from binarize.errors import ConfigError

__all__ = ["BypassKind", "bypass_kind", "channel_bypass", "merge_groups"]

BypassKind = Literal["identity", "up", "down", "mixed"]


def channel_bypass(x: Tensor, out_channels: int, dim: int = 1) -> Tensor:
    r"""Bring x to `out_channels` channels: tiled, merged, or both.

    Forward, with i a channel of y, groups = merge_groups(Cin, m), r and m as above:

        y_i = x_{i mod Cin}                          for i < r Cin
        y_i = mean of x_c over c in groups[i - r Cin]  otherwise

    Gradient: the transposed map. g_c is the sum of the gradients of its copies, plus that of its merged
    channel divided by the size of the group.

    Costs views, at most two means and one concatenation. The result is x itself if Cin = out_channels, else a
    new tensor, channels-last in memory if x is. Means of half-precision values are accumulated in float32.
    torch.fx records the call as one node, whichever module calls it.

    Args:
        x: (..., Cin, ...) of a floating-point dtype.
        out_channels: Cout, at least 1.
        dim: the dimension of x that holds the channels: 1 for images, -1 for tokens.

    Returns:
        (..., Cout, ...), of the dtype of x.

    Raises:
        ConfigError: if x is not of a floating-point dtype, has no channel or no dimension `dim`, or Cout < 1.
    """
    if has_torch_function_unary(x):  # a torch.fx proxy, or a tensor subclass with behaviour of its own
        return handle_torch_function(channel_bypass, (x,), x, out_channels, dim=dim)
    if not x.dtype.is_floating_point:
        raise ConfigError(
            f"channel_bypass: x is {x.dtype}; expected a floating-point dtype: channels are averaged. "
            "Convert it first, for example with x.float()."
        )
    if not -x.ndim <= dim < x.ndim:
        raise ConfigError(
            f"channel_bypass: dim={dim} for x of shape {tuple(x.shape)}; expected a dimension of x. "
            "Name the one that holds the channels: 1 for images, -1 for tokens."
        )
    channels = x.shape[dim]
    _check_positive("channel_bypass", out_channels=out_channels, in_channels=channels)
    if channels == out_channels:
        return x
    # Channels-last in memory: make them last in the shape too. The means then run over neighbours (several
    # times faster), and the result is channels-last by construction; torch.cat would guess the layout from
    # that of its parts, wrongly so for a batch of one image.
    if x.stride(dim) == 1:
        return _tile_and_merge(x.movedim(dim, -1), channels, out_channels, -1).movedim(-1, dim)
    return _tile_and_merge(x, channels, out_channels, dim)


def merge_groups(in_channels: int, merged: int) -> list[range]:
    """List the input channels that enter each merged channel, in output order.

    With K = in_channels div merged: for j < merged-1 the K channels j, j+(merged-1), ..., j+(K-1)(merged-1);
    for the last all that remain, K(merged-1) ... in_channels-1. Together they partition the input channels.

    Args:
        in_channels: number of channels to merge.
        merged: number of channels they become, 1 to `in_channels`.

    Returns:
        One range of channels for each merged channel.

    Raises:
        ConfigError: if either number is below 1 or `merged` exceeds `in_channels`.
    """
    _check_positive("merge_groups", in_channels=in_channels, merged=merged)
    if merged > in_channels:
        raise ConfigError(
            f"merge_groups: merged={merged} exceeds in_channels={in_channels}; expected 1 to {in_channels}. "
            "A bypass that widens merges the remainder out_channels % in_channels only and copies the rest."
        )
    _, strided = _split_point(in_channels, merged)
    return [*(range(j, strided, merged - 1) for j in range(merged - 1)), range(strided, in_channels)]


def bypass_kind(in_channels: int, out_channels: int) -> BypassKind:
    """Name what the bypass does between two widths.

    Args:
        in_channels: Cin, at least 1.
        out_channels: Cout, at least 1.

    Returns:
        "identity" if they are equal, "down" (means only) if Cout < Cin, "up" (copies only) if Cout is a
        multiple of Cin, "mixed" (copies and means) if it is larger but not a multiple.

    Raises:
        ConfigError: if either is below 1.
    """
    _check_positive("bypass_kind", in_channels=in_channels, out_channels=out_channels)
    if in_channels == out_channels:
        return "identity"
    if out_channels < in_channels:
        return "down"
    return "mixed" if out_channels % in_channels else "up"


def _tile_and_merge(x: Tensor, channels: int, out_channels: int, dim: int) -> Tensor:
    copies, merged = out_channels // channels, out_channels % channels  # divmod does not take symbolic sizes
    rest = []
    if merged == 1:
        rest = [x.mean(dim, keepdim=True)]
    elif merged:
        size, strided = _split_point(channels, merged)
        # split, not two slices: its gradient is one concatenation, theirs two zero-padded tensors and a sum
        head, tail = x.split([strided, channels - strided], dim)
        if size > 1:
            # (size, merged-1): the groups are the columns, since their channels lie merged-1 apart
            head = head.unflatten(dim, (size, merged - 1)).mean(dim - 1 if dim < 0 else dim)
        rest = [head, tail.mean(dim, keepdim=True) if channels - strided > 1 else tail]
    return torch.cat([x] * copies + rest, dim)


def _split_point(channels: int, merged: int) -> tuple[int, int]:
    """(Size of a strided group, channels in all the strided groups); the last group is what remains."""
    size = channels // merged
    return size, size * (merged - 1)


def _check_positive(where: str, **counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ConfigError(f"{where}: {name}={count}; expected at least 1. Pass a number of channels.")
