"""Transposed convolution as stride * stride ordinary ones, each writing every stride-th output position.

Along one axis, output o = stride * q + r is the sum over taps k of input i * weight k with
o + padding = stride * i + dilation * k. For a remainder r these are the taps with
(r + padding - dilation k) divisible by the stride; they are evenly spaced, and so are their inputs
i = q + (r + padding - dilation k) / stride: a convolution of stride 1, exact as any other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from binarize.errors import NativeError
from binarize.native.convolution import conv
from binarize.native.epilogue import Epilogue
from binarize.native.instruction_set import Isa
from binarize.native.packing import pack_weights
from binarize.native.tensors import checked, pair
from binarize.native.types import BitPlane, TransposedWeights


def pack_transposed(
    weight: Tensor,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    isa: Isa = "auto",
) -> TransposedWeights:
    """Weights of a transposed convolution.

    Args:
        weight: (Cin, Cout / groups, h, w) float32, as nn.ConvTranspose2d has it; >= 0 is +1.
        stride: as in torch.
        padding: as in torch.
        dilation: as in torch.
        groups: as in torch.
        isa: the instruction set that the layer will run on.

    Raises:
        NativeError: an argument that does not fit.
    """
    weight = checked("pack_transposed: weight", weight, (None,) * 4)
    if groups < 1 or weight.shape[0] % groups:
        raise NativeError(f"pack_transposed: groups={groups} do not divide {weight.shape[0]} input channels.")
    stride, padding, dilation = pair("stride", stride), pair("padding", padding), pair("dilation", dilation)
    if min(stride + dilation) < 1:
        raise NativeError(f"pack_transposed: stride={stride}, dilation={dilation}; expected at least 1.")
    filters = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)  # (Cout, Cin / groups, h, w)
    kernel = (weight.shape[2], weight.shape[3])
    rows, columns = (
        [_taps(r, kernel[a], stride[a], padding[a], dilation[a]) for r in range(stride[a])] for a in (0, 1)
    )
    # A phase without taps along one axis has none at all, but keeps its place.
    phases = []
    for taps_h, low_h in rows:
        row = []
        for taps_w, low_w in columns:
            part = filters[:, :, taps_h][..., taps_w]
            row.append(
                pack_weights(
                    part if part.numel() else filters.new_zeros(*filters.shape[:2], 0, 0),
                    padding=(low_h, low_w, 0, 0),
                    dilation=[d // math.gcd(s, d) for s, d in zip(stride, dilation, strict=True)],
                    groups=groups,
                    isa=isa,
                )
            )
        phases.append(tuple(row))
    return TransposedWeights(
        phases=tuple(phases), kernel=kernel, stride=stride, padding=padding, dilation=dilation
    )


def conv_transposed(
    plane: BitPlane,
    weights: TransposedWeights,
    epilogue: Epilogue | None = None,
    *,
    out_size: Sequence[int] | None = None,
    threads: int | None = None,
) -> Tensor:
    """The transposed convolution of a plane; arguments and result as those of `conv`.

    Raises:
        NativeError: shapes that do not fit, or a border smaller than `weights.border`.
    """
    size = weights.out_size(plane.height, plane.width) if out_size is None else tuple(out_size)
    if epilogue is not None and epilogue.resize is not None:
        raise NativeError("conv_transposed: a bypass of another size; expected one of the result's.")
    last = (epilogue or Epilogue()).checked(plane.images, weights.out_channels, size)
    shape = (plane.images, last.out_channels(weights.out_channels), *size)
    out = torch.empty(shape, memory_format=torch.channels_last, dtype=torch.float32, device="cpu")
    sums = None if last.sums is None else torch.zeros_like(last.sums)
    (high, wide) = weights.stride
    for r, row in enumerate(weights.phases):
        for c, phase in enumerate(row):
            part = out[:, :, r::high, c::wide]
            if not part.numel():
                continue
            bypass, residual = (
                None if x is None else x[:, :, r::high, c::wide] for x in (last.bypass, last.residual)
            )
            of_phase = replace(last, bypass=bypass, residual=residual)
            conv(plane, phase, of_phase, out_size=part.shape[2:], out=part, threads=threads)
            if sums is not None and last.sums is not None:
                sums += last.sums
    if sums is not None and last.sums is not None:
        last.sums.copy_(sums)
    return out


def _taps(r: int, kernel: int, stride: int, padding: int, dilation: int) -> tuple[list[int], int]:
    """The taps of phase `r` along one axis, in the order of their inputs, and the padding before them."""
    taps = [k for k in reversed(range(kernel)) if (r + padding - dilation * k) % stride == 0]
    return taps, -((r + padding - dilation * taps[0]) // stride) if taps else 0
