"""Bit planes: activations as signs, 32 channels in a word; layout in `native/binarize.h`."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from binarize.errors import NativeError
from binarize.native import fallback
from binarize.native.library import Isa, check, number_of, required, resolve, threads_or_default
from binarize.native.resize import Resize
from binarize.native.structs import SLACK, PlaneShape
from binarize.native.tensors import address, channels_last, checked, map_of, pair, vector


@dataclass(frozen=True, kw_only=True)
class BitPlane:
    """Packed activations.

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
        """For the library."""
        return PlaneShape(
            self.images, self.height, self.width, self.channels, self.groups, self.border[0], self.border[1]
        )


def pack(
    x: Tensor,
    *,
    mul: Tensor | None = None,
    add: Tensor | None = None,
    groups: int = 1,
    border: int | Sequence[int] = 0,
    abs_sums: Tensor | None = None,
    resize: Resize | None = None,
    threads: int | None = None,
    isa: Isa = "auto",
) -> BitPlane:
    """The signs of mul * x + add, +1 for 0 and for -0.0, -1 for NaN.

    The product and the sum are rounded one after the other, as torch does.

    Args:
        x: (N, C, H, W) float32; fastest if channels-last or contiguous, otherwise copied.
        mul: (C,) or None for 1.
        add: (C,), (N, C) or None for 0.
        groups: of the convolution that reads the plane (1 for a depthwise one).
        border: zero positions around the map, at least the convolution's padding.
        abs_sums: (N, C), is overwritten by the sums of abs(mul * x + add) over positions.
        resize: of x, before anything else.
        threads: of the kernel; torch's number if None.
        isa: instruction set, or "torch".

    Raises:
        NativeError: an argument of another shape or dtype, groups that do not divide C.
    """
    x = checked("pack: x", x, (None,) * 4, contiguous=False)
    images, channels, height, width = x.shape if resize is None else (*x.shape[:2], *resize.size)
    border = pair("pack: border", border)
    if min(height, width) < 1 or min(x.shape) < 1 or groups < 1 or channels % groups or min(border) < 0:
        raise NativeError(
            f"pack: x of shape {tuple(x.shape)}, groups={groups}, border={border}; expected no empty size, "
            "groups that divide the channels, and a border of at least 0."
        )
    mul = vector("pack: mul", mul, channels)
    if add is not None:
        add = checked("pack: add", add, (images, channels) if add.dim() == 2 else (channels,))
    if abs_sums is not None and not abs_sums.is_contiguous():
        raise NativeError("pack: abs_sums is written to; expected it to be contiguous.")
    vector("pack: abs_sums", abs_sums, images, channels)
    name = resolve(isa)
    shape = PlaneShape(images, height, width, channels, groups, *border)
    rows, columns = height + 2 * border[0], width + 2 * border[1]
    size = images * rows * columns * groups * -(-(channels // groups) // 32) + SLACK
    if name == "torch":
        x = x if resize is None else resize(x)
        words = fallback.pack(x, mul, add, groups, border, abs_sums)
    else:
        lib = required()
        words = torch.empty(size, dtype=torch.int32, device="cpu")
        if x.stride(3) != 1 or resize is not None:
            x = channels_last(x)
        step = channels if add is not None and add.dim() == 2 else 0
        status = lib.bz_pack(
            number_of(name),
            threads_or_default(threads),
            ctypes.byref(shape),
            ctypes.byref(map_of(x)),
            None if resize is None else ctypes.byref(resize.struct(x)),
            address(mul),
            address(add),
            step,
            address(words),
            address(abs_sums),
        )
        check(status, "pack")
    return BitPlane(
        words=words,
        images=images,
        height=height,
        width=width,
        channels=channels,
        groups=groups,
        border=border,
    )


def unpack(plane: BitPlane) -> Tensor:
    """The +1 and -1 of a plane, (N, C, H, W) float32 (plain torch, for looking and testing)."""
    return fallback.unpack(plane)


def channel_sums(x: Tensor, *, threads: int | None = None, isa: Isa = "auto") -> Tensor:
    """Sums over positions, (N, C), of (N, C, H, W) float32; runs of 64 in float, the rest in double.

    Raises:
        NativeError: `x` is not such a tensor.
    """
    x = channels_last(checked("channel_sums: x", x, (None,) * 4, contiguous=False))
    name = resolve(isa)
    if name == "torch":
        return fallback.channel_sums(x)
    images, channels, height, width = x.shape
    sums = torch.empty(images, channels, dtype=torch.float32, device="cpu")
    status = required().bz_channel_sums(
        number_of(name),
        threads_or_default(threads),
        ctypes.byref(PlaneShape(images, height, width, channels, 1, 0, 0)),
        ctypes.byref(map_of(x)),
        address(sums),
    )
    check(status, "channel_sums")
    return sums


def tokens_to_map(x: Tensor) -> Tensor:
    """(L, C) or (N, L, C) seen as a map (N, C, 1, L), without a copy: a linear layer is a 1x1 convolution.

    Back: `y.squeeze(2).movedim(1, -1)`.
    """
    return (x[None] if x.dim() == 2 else x).movedim(-1, 1).unsqueeze(2)
