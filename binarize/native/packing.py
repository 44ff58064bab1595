"""Activations and weights as signs, 32 in a word; layout in `native/binarize.h`."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from binarize.errors import NativeError
from binarize.native.library import Isa, check, number_of, required, resolve, threads_or_default
from binarize.native.structs import SLACK, ConvShape, PlaneShape
from binarize.native.tensors import address, channels_last, checked, map_of, pair, vector
from binarize.native.types import BitPlane, Kind, PackedWeights, Resize


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
        isa: instruction set.

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
    lib, name = required(), resolve(isa)
    shape = PlaneShape(images, height, width, channels, groups, *border)
    rows, columns = height + 2 * border[0], width + 2 * border[1]
    size = images * rows * columns * groups * -(-(channels // groups) // 32) + SLACK
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
    """The +1 and -1 of a plane, (N, C, H, W) float32, in plain torch; for tests and inspection."""
    words = plane.words[: plane.words.numel() - SLACK].view(plane.grid)
    (h, w), inside = plane.border, plane.channels // plane.groups
    words = words[:, h : h + plane.height, w : w + plane.width]
    bits = (words.unsqueeze(-1) >> torch.arange(32, dtype=torch.int32)) & 1
    values = bits.flatten(-2)[..., :inside].float() * 2 - 1
    return values.flatten(-2).movedim(-1, 1)


def channel_sums(x: Tensor, *, threads: int | None = None, isa: Isa = "auto") -> Tensor:
    """Sums over positions, (N, C), of (N, C, H, W) float32; runs of 64 in float, the rest in double.

    Raises:
        NativeError: `x` is not such a tensor.
    """
    x = channels_last(checked("channel_sums: x", x, (None,) * 4, contiguous=False))
    lib, name = required(), resolve(isa)
    images, channels, height, width = x.shape
    sums = torch.empty(images, channels, dtype=torch.float32, device="cpu")
    status = lib.bz_channel_sums(
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
    return _pack_weights("conv", weight, stride, padding, dilation, groups, resolve(isa))


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
    return _pack_weights("depthwise", weight, stride, padding, dilation, weight.shape[0], name)


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
    return _pack_weights("scaled", weight, stride, padding, dilation, groups, resolve(isa))


def _pack_weights(
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
