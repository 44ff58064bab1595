"""Data of the kernels: packed activations and weights, and parameters of what comes before and behind them.

No function here runs a kernel: `packing`, `convolution` and the other modules take and return these types.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from binarize.conv_sizes import conv_size, transposed_size
from binarize.errors import NativeError
from binarize.native import structs
from binarize.native.structs import SLACK, ConvShape, PlaneShape
from binarize.native.tensors import checked

Kind = Literal["conv", "depthwise", "scaled"]


@dataclass(frozen=True, kw_only=True)
class Resize:
    """Bilinear interpolation of a map to another size; the kernels never store the interpolated map.

    Attributes:
        size: (H, W) of the result.
        align_corners: as in `torch.nn.functional.interpolate`.
    """

    size: tuple[int, int]
    align_corners: bool

    def __call__(self, x: Tensor) -> Tensor:
        """(N, C, h, w) to (N, C, H, W), computed by torch."""
        return F.interpolate(x, size=self.size, mode="bilinear", align_corners=self.align_corners)

    def struct(self, x: Tensor) -> structs.Resize:
        """The library's structure, for the map (N, C, h, w)."""
        return structs.Resize(x.shape[2], x.shape[3], int(self.align_corners))


@dataclass(frozen=True, kw_only=True)
class BitPlane:
    """Packed activations, 32 channels in a word.

    Attributes:
        words: flat int32: [images][height + 2 border][width + 2 border][groups][words per group], then slack.
        images: N.
        height: of the map, without the border.
        width: of the map, without the border.
        channels: of all groups.
        groups: each group's channels start at a new word.
        border: zero positions (above and below, left and right).
    """

    words: Tensor
    images: int
    height: int
    width: int
    channels: int
    groups: int = 1
    border: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        checked("BitPlane.words", self.words, (self.size_in_words,), torch.int32)

    @property
    def group_words(self) -> int:
        """Words of one group at one position."""
        return -(-(self.channels // self.groups) // 32)

    @property
    def grid(self) -> tuple[int, int, int, int, int]:
        """Shape of the words: images, rows, columns, groups, words per group."""
        high, wide = self.height + 2 * self.border[0], self.width + 2 * self.border[1]
        return self.images, high, wide, self.groups, self.group_words

    @property
    def size_in_words(self) -> int:
        """Number of elements of `words`."""
        n, h, w, g, c = self.grid
        return n * h * w * g * c + SLACK

    def struct(self) -> PlaneShape:
        """The library's structure."""
        return PlaneShape(
            self.images, self.height, self.width, self.channels, self.groups, self.border[0], self.border[1]
        )


@dataclass(frozen=True, kw_only=True)
class PackedWeights:
    """Weights of +1 and -1 in the layout of one kernel and instruction set.

    Attributes:
        kind: which kernel they are for.
        words: flat; int32 (int16 of `scaled`); one word [0] for a kernel without taps.
        counts: flat int32: the number of +1 weights per tap and output; empty where not needed.
        in_channels: Cin.
        out_channels: Cout.
        kernel: (h, w).
        stride: (h, w).
        padding: (top, left, bottom, right); negative where the kernel starts inside.
        dilation: (h, w).
        groups: Cin of a depthwise convolution.
        scale_groups: groups of neighbouring input channels whose activations have a scale each; 1 for none.
        isa: the instruction set that they were packed for.
    """

    kind: Kind
    words: Tensor
    counts: Tensor
    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    scale_groups: int = 1
    isa: str

    @property
    def border(self) -> tuple[int, int]:
        """The largest border, (rows, columns), that a plane needs."""
        top, left, bottom, right = self.padding
        return max(top, bottom, 0), max(left, right, 0)

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """(Hout, Wout) for a map of this size."""
        top, left, bottom, right = self.padding
        pads = ((top, bottom), (left, right))
        h, w = conv_size((height, width), self.kernel, self.stride, pads, self.dilation)
        return h, w

    def struct(self, plane: PlaneShape, out_size: Sequence[int]) -> ConvShape:
        """The library's structure."""
        return ConvShape(
            plane,
            self.out_channels,
            *self.kernel,
            *self.stride,
            self.padding[0],
            self.padding[1],
            *self.dilation,
            *out_size,
            self.scale_groups,
        )


@dataclass(frozen=True, kw_only=True)
class TransposedWeights:
    """The ordinary convolutions that a transposed one consists of.

    Attributes:
        phases: [stride h][stride w] of them.
        kernel: (h, w) of the transposed convolution, as are the following.
        stride: (h, w).
        padding: (h, w).
        dilation: (h, w).
    """

    phases: tuple[tuple[PackedWeights, ...], ...]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @property
    def out_channels(self) -> int:
        """Cout."""
        return self.phases[0][0].out_channels

    def out_size(self, height: int, width: int, output_padding: Sequence[int] = (0, 0)) -> tuple[int, int]:
        """(Hout, Wout) for a map of this size, as in torch."""
        pads = tuple((p, p) for p in self.padding)
        h, w = transposed_size((height, width), self.kernel, self.stride, pads, self.dilation, output_padding)
        return h, w

    def border(self, height: int, width: int, out_size: Sequence[int] | None = None) -> tuple[int, int]:
        """The border, (rows, columns), that a plane of this size needs."""
        size = self.out_size(height, width) if out_size is None else out_size
        needed = [0, 0]
        for r, row in enumerate(self.phases):
            for c, phase in enumerate(row):
                if 0 in phase.kernel:  # without taps along one axis it reads nothing at all
                    continue
                for axis, (n, start) in enumerate(((height, r), (width, c))):
                    low, reach = phase.padding[axis], phase.dilation[axis] * (phase.kernel[axis] - 1)
                    if count := len(range(start, size[axis], self.stride[axis])):
                        needed[axis] = max(needed[axis], low, count - low + reach - n)
        return needed[0], needed[1]


@dataclass(frozen=True, kw_only=True)
class Dab:
    """Parameters of the distribution-adaptive binarizer; formulas in `native/binarize.h`.

    Attributes:
        k: (C,) or None.
        b: (C,) or None.
        a: (C,), (G,) with G groups, or None for no scale.
        groups: scales per image, one for each of this many groups of neighbouring channels (1: one for all;
            the groups are those of `binarize.functional.dab.group_bounds`); 0 for one per channel.
        plain: the scale is the mean absolute deviation itself, without `a`.
    """

    k: Tensor | None = None
    b: Tensor | None = None
    a: Tensor | None = None
    groups: int = 0
    plain: bool = False

    @property
    def scaled(self) -> bool:
        """Whether there is a scale."""
        return self.a is not None or self.plain


@dataclass(frozen=True, kw_only=True)
class MaxPool:
    """A max-pool as torch's, without dilation: padded positions are left out, a NaN is the largest value.

    Attributes:
        kernel: (h, w).
        stride: (h, w).
        padding: (h, w), at most half of the kernel.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)

    def out_size(self, size: Sequence[int]) -> tuple[int, int]:
        """(H', W') for a map of this size (H, W).

        Raises:
            NativeError: a pool that torch would refuse, too.
        """
        fits = min(*self.kernel, *self.stride) >= 1 and min(self.padding) >= 0
        if not fits or any(2 * p > k for p, k in zip(self.padding, self.kernel, strict=True)):
            raise NativeError(f"{self}: expected sizes of at least 1, a padding of at most half the kernel.")
        pads = tuple((p, p) for p in self.padding)
        h, w = conv_size(size, self.kernel, self.stride, pads, (1, 1))
        return h, w


@dataclass(frozen=True, kw_only=True)
class Norm:
    """Batch norm with running statistics: (y - mean) / sqrt(variance + eps) * weight + bias.

    Attributes:
        mean: (C,).
        variance: (C,).
        weight: (C,), or None for 1.
        bias: (C,), or None for 0.
        eps: added to the variance.
    """

    mean: Tensor
    variance: Tensor
    weight: Tensor | None = None
    bias: Tensor | None = None
    eps: float = 1e-5

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """Mean, variance, weight and bias."""
        return self.mean, self.variance, self.weight, self.bias
