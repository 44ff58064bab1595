"""The full-precision bypass around a binary layer: to the output's positions, then to its channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binarize.functional import channel_bypass
from binarize.functional.fused import add_channel_bypass

Fit = Literal["floor", "ceil", "crop"]

_POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class Bypass(nn.Module):
    """Brings a layer's input to the shape of its output without a parameter (CFB of BiDense, Section 3.3).

    Positions: average pooling with kernel and stride of the layer's stride (ceil where the output size
    demands it), nearest upsampling for transposed convolutions; where the layer has no or more padding
    than "same", the centre is cropped or the border replicated. Channels: `channel_bypass`.

    Args:
        in_channels: Cin.
        out_channels: Cout.
        stride: of the layer, one per spatial dim; empty for linear layers.
        transposed: of a transposed convolution.
        fit: how the pooled input meets the output: `floor` or `ceil` where that rounding of size / stride
            is always the output size, `crop` where it depends on the size.
        dim: channel dimension, 1 or -1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: Sequence[int] = (),
        transposed: bool = False,
        fit: Fit = "crop",
        dim: int = 1,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = tuple(stride)
        self.transposed = transposed
        self.fit = fit
        self.dim = dim

    def forward(self, x: Tensor, size: Sequence[int], onto: Tensor | None = None) -> Tensor:
        """The input at the output's positions and channels, alone or added to the layer's own result.

        Args:
            x: (N, Cin, ...), or channels last.
            size: positions of the output; ignored by linear layers.
            onto: (N, Cout, *size); is overwritten by the sum, so nothing else may need it.

        Returns:
            (N, Cout, *size), or channels last.
        """
        if self.stride:
            x = self.at(x, size)
        if onto is not None and _is_watched(onto):
            onto = onto.clone()
        copies, rest = divmod(self.out_channels, self.in_channels)
        if onto is not None and self.in_channels != self.out_channels and self.dim == 1:
            added = add_channel_bypass(x, onto)
            if added is not None:
                return added
        if onto is None or rest or copies == 1:
            carried = channel_bypass(x, self.out_channels, self.dim)
            return carried if onto is None else onto.add_(carried)
        # Whole repetitions of the input's channels are added as they are, without being written out first.
        dim = self.dim % onto.dim()
        return onto.unflatten(dim, (copies, self.in_channels)).add_(x.unsqueeze(dim)).flatten(dim, dim + 1)

    @property
    def keeps_positions(self) -> bool:
        """Whether `at` gives the input as it is, whatever its size."""
        return not self.transposed and self.fit != "crop" and all(s == 1 for s in self.stride)

    def at(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """The input at the output's positions, (N, Cin, *size), its channels as they are."""
        if self.transposed:
            return F.interpolate(x, size=list(size), mode="nearest")
        pool = _POOLS[len(self.stride)] if any(s > 1 for s in self.stride) else None
        if self.fit != "crop":  # nothing here may depend on the size: graphs are exported with it unknown
            return pool(x, self.stride, self.stride, ceil_mode=self.fit == "ceil") if pool else x
        if pool is not None:
            short = any(n // s < m for n, s, m in zip(x.shape[2:], self.stride, size, strict=True))
            x = pool(x, self.stride, self.stride, ceil_mode=short)
        if any(n < m for n, m in zip(x.shape[2:], size, strict=True)):
            return F.interpolate(x, size=list(size), mode="nearest")
        for axis, m in enumerate(size, start=2):
            surplus = x.shape[axis] - m
            if surplus > 0:
                x = x.narrow(axis, surplus // 2, m)
        return x

    def extra_repr(self) -> str:
        """Channels, and the stride if there is one."""
        stride = f", stride={self.stride}" if any(s > 1 for s in self.stride) else ""
        return f"{self.in_channels}, {self.out_channels}{stride}"


def _is_watched(x: Tensor) -> bool:
    """Whether a hook on a module's gradient waits for this tensor's: autograd will not overwrite it."""
    return not torch.compiler.is_compiling() and type(x.grad_fn).__name__ == "BackwardHookFunctionBackward"


def fit_of(
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int | tuple[int, int]],
    dilation: Sequence[int],
) -> Fit:
    """Which rounding of size / stride gives the output size of a convolution, whatever the size.

    The output has floor((n + slack) / s) positions with slack = 2p - d(k - 1) - 1 + s: slack 0 is floor,
    slack s - 1 is ceil ("same" padding), anything else varies. Padding is one number per spatial dim, or one
    per side.
    """
    totals = [2 * p if isinstance(p, int) else sum(p) for p in padding]
    slacks = [
        total - d * (k - 1) - 1 + s for k, s, total, d in zip(kernel, stride, totals, dilation, strict=True)
    ]
    if all(slack == 0 for slack in slacks):
        return "floor"
    if all(slack == s - 1 for slack, s in zip(slacks, stride, strict=True)):
        return "ceil"
    return "crop"
