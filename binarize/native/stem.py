"""The stem of a network: a float convolution of few channels, with norm, activation and max-pool."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from binarize.conv_sizes import conv_size
from binarize.errors import NativeError
from binarize.native import structs
from binarize.native.epilogue import Epilogue
from binarize.native.instruction_set import Isa, number_of, resolve
from binarize.native.library import check, required, threads_or_default
from binarize.native.tensors import (
    address,
    checked,
    counted,
    empty_map,
    map_of,
    output_vector,
    pair,
    vector,
)
from binarize.native.types import MaxPool, Norm


def conv_stem(
    x: Tensor,
    weight: Tensor,
    epilogue: Epilogue | None = None,
    *,
    sums: Tensor | None = None,
    norm: Norm | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    pool: MaxPool | None = None,
    threads: int | None = None,
    isa: Isa = "auto",
) -> Tensor:
    """Convolution, norm, epilogue, max-pool: (N, Cout, H', W'), channels-last.

    Meant for up to 16 input channels. Programs of deployed networks have it as a step.

    Args:
        x: (N, C, H, W) float32 with any strides.
        weight: (Cout, C, h, w).
        epilogue: only its `mul`, `add`, `first` and `second`.
        sums: (N, Cout), is overwritten by the sums of the result over positions. The result is then never an
            inference tensor, so that torch counts its changes.
        norm: applied to sum * mul + add, before `first`.
        stride: as in torch.
        padding: as in torch.
        pool: applied last.
        threads: number of threads; None for torch's.
        isa: instruction set; `auto` for the default one (`set_isa`).

    Raises:
        NativeError: shapes that do not fit, an epilogue with other parts, a missing library.
    """
    e = _simple(epilogue or Epilogue())
    x = checked("stem: x", x, (None,) * 4, contiguous=False)
    weight = checked("stem: weight", weight, (None, x.shape[1], None, None))
    images, outputs = len(x), len(weight)
    geometry = _geometry(x, weight, pair("stem: stride", stride), pair("stem: padding", padding))
    size = (geometry.out_h, geometry.out_w)
    result = size if pool is None else pool.out_size(size)
    if min(*size, *result) < 1:
        kernel = tuple(weight.shape[2:])
        raise NativeError(f"stem: {tuple(x.shape)} is smaller than the kernel {kernel}, or than {pool}.")
    e = replace(
        e.checked(images, outputs, size), sums=output_vector("conv_stem: sums", sums, images, outputs)
    )
    library, number = required(), number_of(resolve(isa))
    shape = (images, outputs, *result)
    out = empty_map(shape) if sums is None else counted(shape)
    window, statistics = None, None
    if pool is not None:
        window = ctypes.byref(structs.Pool(*pool.kernel, *pool.stride, *pool.padding, *result))
    if norm is not None:
        norm = _checked_norm(norm, outputs)
        statistics = ctypes.byref(structs.Norm(*(address(t) for t in norm.tensors), norm.eps))
    source, described = ctypes.byref(map_of(x)), ctypes.byref(e.struct(out))
    common = (number, threads_or_default(threads), ctypes.byref(geometry))
    status = library.bz_stem(*common, source, weight.data_ptr(), statistics, window, described)
    check(status, "stem")
    return out


def _simple(epilogue: Epilogue) -> Epilogue:
    e = epilogue
    others = (e.sample_scale, e.bypass, e.residual, e.tail, e.sums)
    if not e.plain or any(part is not None for part in others):
        raise NativeError("stem: the epilogue has more than mul, add, first and second.")
    return e


def _geometry(
    x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> structs.ConvShape:
    if min(stride) < 1 or min(padding) < 0 or not x.numel() or not weight.numel():
        raise NativeError(
            f"stem: x of shape {tuple(x.shape)}, weight of {tuple(weight.shape)}, stride={stride}, "
            f"padding={padding}; expected nothing empty, strides of at least 1 and no negative padding."
        )
    outputs, channels, *kernel = weight.shape
    pads = tuple((p, p) for p in padding)
    size = conv_size(x.shape[2:], kernel, stride, pads, (1, 1))
    plane = structs.PlaneShape(len(x), *x.shape[2:], channels, 1, *padding)
    return structs.ConvShape(plane, outputs, *kernel, *stride, *padding, 1, 1, *size)


def _checked_norm(norm: Norm, channels: int) -> Norm:
    weight, bias = vector("Norm.weight", norm.weight, channels), vector("Norm.bias", norm.bias, channels)
    return Norm(
        mean=checked("Norm.mean", norm.mean, (channels,)),
        variance=checked("Norm.variance", norm.variance, (channels,)),
        weight=weight,
        bias=bias,
        eps=norm.eps,
    )
