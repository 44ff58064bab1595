"""Activations and weights as signs, 32 in a word; layout in `native/binarize.h`."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from binarize.errors import NativeError
from binarize.native.instruction_set import Isa, number_of, resolve
from binarize.native.library import check, required, threads_or_default
from binarize.native.structs import SLACK, ConvShape, PlaneShape
from binarize.native.tensors import address, channels_last, checked, map_of, output_vector, pair, vector
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

    The product and the sum are rounded one after the other, as torch does. For tests and benchmarks: deployed
    networks pack with `binarize.native.prepared.PreparedPack`.

    Args:
        x: (N, C, H, W) float32; fastest if channels-last or contiguous, otherwise copied.
        mul: (C,) or None for 1.
        add: (C,), (N, C) or None for 0.
        groups: of the convolution that reads the plane (1 for a depthwise one).
        border: zero positions around the map, at least the convolution's padding.
        abs_sums: (N, C), is overwritten by the sums of abs(mul * x + add) over positions.
        resize: of x, before anything else.
        threads: of the kernel; torch's number if None.
        isa: instruction set; `auto` for the default one (`set_isa`).

    Raises:
        NativeError: an argument of another shape or dtype, groups that do not divide C, a missing library.
    """
    x = checked("pack: x", x, (None,) * 4, contiguous=False)
    plane = _empty_plane(x, resize, groups, pair("pack: border", border))
    images, channels = x.shape[:2]
    mul = vector("pack: mul", mul, channels)
    per_image = add is not None and add.dim() == 2
    add = vector("pack: add", add, *((images, channels) if per_image else (channels,)))
    abs_sums = output_vector("pack: abs_sums", abs_sums, images, channels)
    if x.stride(3) != 1 or resize is not None:
        x = channels_last(x)
    name = resolve(isa)
    status = required().bz_pack(
        number_of(name),
        threads_or_default(threads),
        ctypes.byref(plane.struct()),
        ctypes.byref(map_of(x)),
        None if resize is None else ctypes.byref(resize.struct(x)),
        address(mul),
        address(add),
        channels if per_image else 0,
        address(plane.words),
        address(abs_sums),
    )
    check(status, "pack")
    return plane


def _empty_plane(x: Tensor, resize: Resize | None, groups: int, border: tuple[int, int]) -> BitPlane:
    """The plane, not yet written, of maps (N, C, h, w) that `resize` brings to their size.

    Raises:
        NativeError: an empty size, groups that do not divide C, a negative border, a missing library.
    """
    images, channels, height, width = x.shape if resize is None else (*x.shape[:2], *resize.size)
    if min(height, width) < 1 or min(x.shape) < 1 or groups < 1 or channels % groups or min(border) < 0:
        raise NativeError(
            f"pack: x of shape {tuple(x.shape)}, groups={groups}, border={border}; expected no empty size, "
            "groups that divide the channels, and a border of at least 0."
        )
    size = required().bz_plane_words(
        ctypes.byref(PlaneShape(images, height, width, channels, groups, *border))
    )
    return BitPlane(
        words=torch.empty(size, dtype=torch.int32, device="cpu"),
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

    For tests: the other functions make these sums themselves.

    Raises:
        NativeError: a tensor of another shape or dtype, a missing library.
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


def pack_weights(
    weight: Tensor,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    scale_groups: int = 1,
    isa: Isa = "auto",
) -> PackedWeights:
    """Weights of a convolution of +-1 sums; of a linear layer as (Cout, Cin, 1, 1).

    Args:
        weight: (Cout, Cin / groups, h, w) float32; >= 0 is +1. h = w = 0: a convolution without taps.
        stride: as in torch.
        padding: zeros: one number, (h, w), or (top, left, bottom, right).
        dilation: as in torch.
        groups: as in torch.
        scale_groups: groups of neighbouring input channels (`binarize.functional.dab.group_bounds`) whose
            activations have a scale each: an epilogue's `sample_scale` is then (N, scale_groups).
        isa: the instruction set that the layer will run on.

    Raises:
        NativeError: an argument that does not fit, a missing instruction set or library.
    """
    return _pack_weights("conv", weight, stride, padding, dilation, groups, resolve(isa), scale_groups)


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
    scale_groups: int = 1,
) -> PackedWeights:
    where = f"weights of {kind}"
    weight = checked(where, weight, (None,) * 4)
    weights = _geometry(kind, tuple(weight.shape), stride, padding, dilation, groups, isa)
    if scale_groups != 1:
        words = -(-weights.in_channels // 32)
        if groups != 1 or not 1 < scale_groups <= words:
            raise NativeError(
                f"{where}: scale_groups={scale_groups} with groups={groups} and {weights.in_channels} input "
                f"channels; expected 1, or up to one for each 32 channels ({words}) and groups=1."
            )
        weights = replace(weights, scale_groups=scale_groups)
    lib, shape = required(), ctypes.byref(_layout_of(weights))
    if kind == "scaled":
        number = number_of(isa)
        words = torch.empty(max(1, lib.bz_scaled_words(number, shape)), dtype=torch.int16, device="cpu")
        check(lib.bz_pack_scaled(number, shape, address(weight), address(words)), where)
        return replace(weights, words=words)
    depthwise = kind == "depthwise"
    size = (lib.bz_depthwise_words if depthwise else lib.bz_weight_words)(shape)
    length = (lib.bz_depthwise_counts if depthwise else lib.bz_weight_counts)(shape)
    words = torch.empty(max(1, size), dtype=torch.int32, device="cpu")
    counts = torch.empty(max(1, length), dtype=torch.int32, device="cpu")
    arguments = (shape, address(weight), address(words), address(counts))
    if depthwise:
        check(lib.bz_pack_depthwise(*arguments), where)
    else:
        check(lib.bz_pack_weights(number_of(isa), *arguments), where)
    return replace(weights, words=words, counts=counts)


def _geometry(
    kind: Kind,
    shape: tuple[int, ...],
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    dilation: int | Sequence[int],
    groups: int,
    isa: str,
) -> PackedWeights:
    """The checked geometry of weights (Cout, Cin / groups, h, w), with one word and one count of 0.

    Raises:
        NativeError: an argument that does not fit.
    """
    where = f"weights of {kind}"
    outputs, inside, *kernel = shape
    if outputs < 1 or inside < 1 or groups < 1 or outputs % groups or (kind == "depthwise" and inside != 1):
        raise NativeError(
            f"{where}: shape {shape} with groups={groups}; expected (Cout, Cin / groups, h, w) with groups "
            "dividing Cout (and one input channel per filter of a depthwise convolution)."
        )
    pads = (padding,) * 4 if isinstance(padding, int) else tuple(padding)
    pads = pads * 2 if len(pads) == 2 else pads
    if len(pads) != 4:
        raise NativeError(f"{where}: padding={padding!r}; expected 1, 2 or 4 numbers.")
    strides, dilations = pair("stride", stride), pair("dilation", dilation)
    if min(strides + dilations) < 1:
        raise NativeError(f"{where}: stride={stride!r}, dilation={dilation!r}; expected at least 1.")
    empty = torch.zeros(1, dtype=torch.int32, device="cpu")
    return PackedWeights(
        kind=kind,
        words=empty,
        counts=empty,
        in_channels=inside * groups,
        out_channels=outputs,
        kernel=(kernel[0], kernel[1]),
        stride=strides,
        padding=(pads[0], pads[1], pads[2], pads[3]),
        dilation=dilations,
        groups=groups,
        isa=isa,
    )


def _layout_of(weights: PackedWeights) -> ConvShape:
    """What the library packs by. The layout does not depend on the map's size: any accepted one will do."""
    border = [d * k for d, k in zip(weights.dilation, weights.kernel, strict=True)]
    groups = 1 if weights.kind == "depthwise" else weights.groups
    plane = PlaneShape(1, 1, 1, weights.in_channels, groups, *border)
    kernel = (*weights.kernel, 1, 1, 0, 0, *weights.dilation)
    return ConvShape(plane, weights.out_channels, *kernel, 1, 1, weights.scale_groups)
