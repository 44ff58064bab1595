"""Convolutions of packed activations with packed weights, each in a call that checks all its arguments."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from binarize.errors import NativeError
from binarize.native.epilogue import Epilogue
from binarize.native.instruction_set import number_of
from binarize.native.library import check, required, threads_or_default
from binarize.native.tensors import address, checked
from binarize.native.types import BitPlane, PackedWeights


def conv(
    plane: BitPlane,
    weights: PackedWeights,
    epilogue: Epilogue | None = None,
    *,
    out_size: Sequence[int] | None = None,
    out: Tensor | None = None,
    threads: int | None = None,
) -> Tensor:
    """Sums of +-1 products over the kernel's window, where padded positions count 0, and the epilogue.

    Deployed networks use it for transposed convolutions, and `binarize.native.prepared.PreparedConv` for all
    others. The kernel (`conv` or `depthwise`) and instruction set are those that `weights` were packed for.
    The sums are exact; the epilogue rounds to float32 after each operation.

    Args:
        plane: packed input, with a border of at least the padding.
        weights: of `pack_weights` or `pack_depthwise`.
        epilogue: None stores the sums.
        out_size: (Hout, Wout); None computes it from the geometry.
        out: float32 tensor of the result's shape to write into, channels next to each other; may be strided.
        threads: number of threads; None for torch's.

    Returns:
        (N, Cout, Hout, Wout) float32, channels-last; (N, Cz, Hout, Wout) with a tail.

    Raises:
        NativeError: shapes that do not fit, a border that is too small, a depthwise convolution with a tail.
    """
    if weights.kind == "scaled":
        raise NativeError("conv: weights of pack_scaled; use conv_scaled, or pack them with pack_weights.")
    given = epilogue or Epilogue()
    if weights.scale_groups > 1 and (given.sample_scale is None or not given.plain):
        raise NativeError(
            f"conv: weights of {weights.scale_groups} scale groups; expected an epilogue with sample_scale "
            f"({plane.images}, {weights.scale_groups}), and without offset and midpoint."
        )
    return _run(plane, weights, epilogue, out_size, out, threads, None, exact=False)


def conv_scaled(
    plane: BitPlane,
    weights: PackedWeights,
    alpha: Tensor,
    epilogue: Epilogue | None = None,
    *,
    exact: bool = False,
    out_size: Sequence[int] | None = None,
    out: Tensor | None = None,
    threads: int | None = None,
) -> Tensor:
    """As `conv`, where the activations of image n and channel c are +-alpha[n, c].

    For tests and benchmarks: deployed networks use `binarize.native.prepared.PreparedConv`.

    Args:
        plane: see `conv`.
        weights: of `pack_scaled`.
        alpha: (N, Cin) float32.
        epilogue: see `conv`.
        exact: sum floats instead of 16-bit integers, whose error docs/kernels.md states. It takes twice as
            long on AVX-512, and is slow elsewhere.
        out_size: see `conv`.
        out: see `conv`.
        threads: see `conv`.

    Returns:
        (N, Cout, Hout, Wout) float32, channels-last.

    Raises:
        NativeError: shapes that do not fit, a border that is too small, an epilogue with offset or midpoint.
    """
    if epilogue is not None and not epilogue.plain:
        raise NativeError("conv_scaled: the epilogue has an offset or a midpoint; expected neither.")
    if weights.kind != "scaled":
        raise NativeError(f"conv_scaled: weights packed for {weights.kind}; pack them with pack_scaled.")
    alpha = checked("conv_scaled: alpha", alpha, (plane.images, plane.channels))
    return _run(plane, weights, epilogue, out_size, out, threads, alpha, exact=exact)


def conv_int(
    plane: BitPlane,
    weights: PackedWeights,
    *,
    out_size: Sequence[int] | None = None,
    threads: int | None = None,
) -> Tensor:
    """The sums themselves, (N, Cout, Hout, Wout) int32, channels-last; arguments as those of `conv`.

    For tests.

    Raises:
        NativeError: shapes that do not fit, a border that is too small.
    """
    size = _checked_size(plane, weights, out_size)
    if weights.kind == "scaled":
        raise NativeError("conv_int: weights of pack_scaled, whose sums are not integers.")
    if weights.scale_groups > 1:
        raise NativeError("conv_int: weights with scale groups, whose sums are not integers.")
    lib = required()
    out = torch.empty(plane.images, *size, weights.out_channels, dtype=torch.int32, device="cpu")
    function = lib.bz_depthwise_int if weights.kind == "depthwise" else lib.bz_conv_int
    status = function(
        number_of(weights.isa),
        threads_or_default(threads),
        ctypes.byref(weights.struct(plane.struct(), size)),
        address(plane.words),
        address(weights.words),
        address(weights.counts),
        address(out),
    )
    check(status, "conv_int")
    return out.permute(0, 3, 1, 2)


def _run(
    plane: BitPlane,
    weights: PackedWeights,
    epilogue: Epilogue | None,
    out_size: Sequence[int] | None,
    out: Tensor | None,
    threads: int | None,
    alpha: Tensor | None,
    *,
    exact: bool,
) -> Tensor:
    size = _checked_size(plane, weights, out_size)
    channels = weights.out_channels
    last = (epilogue or Epilogue()).checked(plane.images, channels, size, scale_groups=weights.scale_groups)
    if weights.kind == "depthwise" and last.tail is not None:
        raise NativeError("conv: a depthwise convolution has no tail.")
    shape = (plane.images, last.out_channels(channels), *size)
    if out is None:
        out = torch.empty(shape, memory_format=torch.channels_last, dtype=torch.float32, device="cpu")
    else:
        checked("conv: out", out, shape, contiguous=False)
        if shape[1] > 1 and out.stride(1) != 1:
            raise NativeError(f"conv: out has strides {out.stride()}; expected neighbouring channels.")
    lib = required()
    ints = (number_of(weights.isa), threads_or_default(threads))
    geometry, described = weights.struct(plane.struct(), size), last.struct(out)
    common = (*ints, ctypes.byref(geometry), address(plane.words), address(weights.words))
    if alpha is not None:
        status = lib.bz_conv_scaled(*common, address(alpha), int(exact), ctypes.byref(described))
    else:
        function = lib.bz_depthwise if weights.kind == "depthwise" else lib.bz_conv
        status = function(*common, address(weights.counts), ctypes.byref(described))
    check(status, "conv")
    return out


def _checked_size(plane: BitPlane, weights: PackedWeights, out_size: Sequence[int] | None) -> tuple[int, int]:
    groups = 1 if weights.kind == "depthwise" else weights.groups
    if plane.channels != weights.in_channels or plane.groups != groups:
        raise NativeError(
            f"conv: the plane has {plane.channels} channels in {plane.groups} groups; "
            f"expected {weights.in_channels} in {groups}."
        )
    size = weights.out_size(plane.height, plane.width) if out_size is None else tuple(out_size)
    if len(size) != 2 or min(size) < 1:
        raise NativeError(f"conv: an output of size {tuple(size)}; expected two sizes of at least 1.")
    needed = _border_needed(plane, weights, size)
    if any(has < wants for has, wants in zip(plane.border, needed, strict=True)):
        raise NativeError(f"conv: the plane's border is {plane.border}; this convolution reads {needed}.")
    return size[0], size[1]


def _border_needed(plane: BitPlane, weights: PackedWeights, size: Sequence[int]) -> tuple[int, int]:
    if 0 in weights.kernel:
        return 0, 0
    needed = []
    for axis, n in enumerate((plane.height, plane.width)):
        reach = weights.dilation[axis] * (weights.kernel[axis] - 1)
        low = weights.padding[axis]
        needed.append(max(0, low, (size[axis] - 1) * weights.stride[axis] - low + reach - n + 1))
    return needed[0], needed[1]
