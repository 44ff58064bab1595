"""Packed weights, each with the geometry of its convolution."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from binarize.errors import NativeError
from binarize.geometry import conv_size
from binarize.native import fallback
from binarize.native.library import Isa, check, number_of, required, resolve
from binarize.native.structs import ConvShape, PlaneShape
from binarize.native.tensors import address, checked, pair

Kind = Literal["conv", "depthwise", "scaled"]


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
        isa: the instruction set they were packed for, or "torch".
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
    isa: str

    @property
    def border(self) -> tuple[int, int]:
        """The border that the plane needs at most."""
        top, left, bottom, right = self.padding
        return max(top, bottom, 0), max(left, right, 0)

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """Positions of the output for a map of this size."""
        top, left, bottom, right = self.padding
        pads = ((top, bottom), (left, right))
        h, w = conv_size((height, width), self.kernel, self.stride, pads, self.dilation)
        return h, w

    def struct(self, plane: PlaneShape, out_size: Sequence[int]) -> ConvShape:
        """For the library."""
        return ConvShape(
            plane,
            self.out_channels,
            *self.kernel,
            *self.stride,
            self.padding[0],
            self.padding[1],
            *self.dilation,
            *out_size,
        )

    def unpacked(self) -> Tensor:
        """Weights packed for "torch" as +1 and -1, (Cout, Cin / groups, h, w) float32."""
        inside = self.in_channels // self.groups
        flat = fallback.unpack_bits(self.words, inside * self.kernel[0] * self.kernel[1])
        return flat.unflatten(1, (inside, *self.kernel))


def pack_weights(
    weight: Tensor,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    isa: Isa = "auto",
) -> PackedWeights:
    """Weights of a convolution of +-1 sums; of a linear layer as (Cout, Cin, 1, 1).

    Args:
        weight: (Cout, Cin / groups, h, w) float32; >= 0 is +1. h = w = 0: a convolution without taps.
        stride: as in torch.
        padding: zeros: one number, (h, w), or (top, left, bottom, right).
        dilation: as in torch.
        groups: as in torch.
        isa: that the layer will run on.

    Raises:
        NativeError: an argument that does not fit, an instruction set that is not there.
    """
    return _pack("conv", weight, stride, padding, dilation, groups, resolve(isa))


def pack_depthwise(
    weight: Tensor,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    isa: Isa = "auto",
) -> PackedWeights:
    """Weights (C, 1, h, w) of a depthwise convolution of at most 255 taps; see `pack_weights`.

    Its plane is packed with `groups=1`. A scale per input channel is one per output channel: multiply
    `Epilogue.mul` by it (or, if it differs per image, run one image at a time).
    """
    name = resolve(isa)
    if weight.dim() == 4 and weight.shape[2] * weight.shape[3] > 255:
        raise NativeError(f"pack_depthwise: kernel {tuple(weight.shape[2:])}; expected at most 255 taps.")
    return _pack("depthwise", weight, stride, padding, dilation, weight.shape[0], name)


def pack_scaled(
    weight: Tensor,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    isa: Isa = "auto",
) -> PackedWeights:
    """Weights of `conv_scaled`, where each image's channels have scales of their own; see `pack_weights`."""
    return _pack("scaled", weight, stride, padding, dilation, groups, resolve(isa))


def _pack(
    kind: Kind,
    weight: Tensor,
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    dilation: int | Sequence[int],
    groups: int,
    isa: str,
) -> PackedWeights:
    where = f"weights of {kind}"
    weight = checked(where, weight, (None,) * 4)
    outputs, inside, *kernel = weight.shape
    if outputs < 1 or inside < 1 or groups < 1 or outputs % groups or (kind == "depthwise" and inside != 1):
        raise NativeError(
            f"{where}: shape {tuple(weight.shape)} with groups={groups}; expected (Cout, Cin / groups, h, w) "
            "with groups dividing Cout (and one input channel per filter of a depthwise convolution)."
        )
    pads = (padding,) * 4 if isinstance(padding, int) else tuple(padding)
    pads = pads * 2 if len(pads) == 2 else pads
    if len(pads) != 4:
        raise NativeError(f"{where}: padding={padding!r}; expected 1, 2 or 4 numbers.")
    two = {"stride": pair("stride", stride), "dilation": pair("dilation", dilation)}
    if min(two["stride"] + two["dilation"]) < 1:
        raise NativeError(f"{where}: stride={stride!r}, dilation={dilation!r}; expected at least 1.")
    geometry = {
        "kind": kind,
        "in_channels": inside * groups,
        "out_channels": outputs,
        "kernel": tuple(kernel),
        "padding": pads,
        "groups": groups,
        "isa": isa,
        **two,
    }
    empty = torch.zeros(1, dtype=torch.int32, device="cpu")
    if isa == "torch":
        return PackedWeights(words=fallback.pack_bits(weight.flatten(1) >= 0), counts=empty, **geometry)
    lib = required()
    plane = PlaneShape(1, 1, 1, inside * groups, 1 if kind == "depthwise" else groups, 0, 0)
    # The packed layout does not depend on the map's size: any that the library accepts will do.
    plane.border_h, plane.border_w = (d * k for d, k in zip(two["dilation"], kernel, strict=True))
    shape = ConvShape(plane, outputs, *kernel, 1, 1, 0, 0, *two["dilation"], 1, 1)
    if kind == "scaled":
        words = torch.empty(max(1, lib.bz_scaled_words(ctypes.byref(shape))), dtype=torch.int16)
        check(lib.bz_pack_scaled(ctypes.byref(shape), address(weight), address(words)), where)
        return PackedWeights(words=words, counts=empty, **geometry)
    size = lib.bz_depthwise_words if kind == "depthwise" else lib.bz_weight_words
    counted = lib.bz_depthwise_counts if kind == "depthwise" else lib.bz_weight_counts
    words = torch.empty(max(1, size(ctypes.byref(shape))), dtype=torch.int32)
    counts = torch.empty(max(1, counted(ctypes.byref(shape))), dtype=torch.int32)
    arguments = (ctypes.byref(shape), address(weight), address(words), address(counts))
    if kind == "depthwise":
        check(lib.bz_pack_depthwise(*arguments), where)
    else:
        check(lib.bz_pack_weights(number_of(isa), *arguments), where)
    return PackedWeights(words=words, counts=counts, **geometry)
