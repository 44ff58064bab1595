"""`torch.ops.binarize.pack`, `.conv` and `.stem`: the kernels as torch operators, for exported graphs.

Importing this module registers them. Only tests do: deployed networks call the library without torch's
dispatcher. Arguments are tensors and plain numbers; shapes are lists of them:

- plane_shape: images, height, width, channels, groups, border h, border w.
- geometry: Cin, Cout, kernel h w, stride h w, padding top left bottom right, dilation h w, groups.
- activations: kinds of the first and the second, 0 none, 1 piecewise, 2 clamp; `bounds`: their low and high;
  `arrays`: their before, negative, positive and after.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from binarize.errors import NativeError
from binarize.native.convolution import conv as run_conv
from binarize.native.convolution import conv_scaled as run_scaled
from binarize.native.epilogue import Activation, Epilogue
from binarize.native.packing import pack as run_pack
from binarize.native.stem import conv_stem
from binarize.native.stem import out_size as stem_size
from binarize.native.structs import SLACK
from binarize.native.types import BitPlane, Kind, MaxPool, PackedWeights

_KINDS: tuple[Kind, ...] = ("conv", "depthwise", "scaled")
_ACTIVATIONS: tuple[Literal["none", "piecewise", "clamp"], ...] = ("none", "piecewise", "clamp")


@torch.library.custom_op("binarize::pack", mutates_args=())
def pack(
    x: Tensor, mul: Tensor | None, add: Tensor | None, groups: int, border: list[int]
) -> tuple[Tensor, Tensor]:
    """Words of the plane, flat int32, and (N, C) sums of abs(mul * x + add); see `packing.pack`."""
    sums = torch.empty(x.shape[0], x.shape[1], dtype=torch.float32, device="cpu")
    plane = run_pack(x, mul=mul, add=add, groups=groups, border=border, abs_sums=sums)
    return plane.words, sums


@pack.register_fake
def _(
    x: Tensor, mul: Tensor | None, add: Tensor | None, groups: int, border: list[int]
) -> tuple[Tensor, Tensor]:
    n, c, h, w = x.shape
    group_words = (c // groups + 31) // 32
    words = n * (h + 2 * border[0]) * (w + 2 * border[1]) * groups * group_words
    return x.new_empty(words + SLACK, dtype=torch.int32), x.new_empty(n, c)


@torch.library.custom_op("binarize::conv", mutates_args=())
def conv(
    plane: Tensor,
    plane_shape: list[int],
    words: Tensor,
    counts: Tensor,
    kind: int,
    isa: str,
    geometry: list[int],
    alpha: Tensor | None,
    mul: Tensor | None,
    add: Tensor | None,
    sample_scale: Tensor | None,
    activations: list[int],
    bounds: list[float],
    arrays: list[Tensor],
    bypass: Tensor | None,
    residual: Tensor | None,
    offset: Tensor | None = None,
    midpoint: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The result, (N, Cout, Hout, Wout) channels-last, and its (N, Cout) sums; see `convolution.conv`.

    `arrays` holds eight tensors, an empty one for None.
    """
    n, h, w, c, g, *border = plane_shape
    packed = BitPlane(
        words=plane, images=n, height=h, width=w, channels=c, groups=g, border=(border[0], border[1])
    )
    weights = weights_of(words, counts, kind, isa, geometry)
    sums = torch.empty(n, weights.out_channels, dtype=torch.float32, device="cpu")
    epilogue = Epilogue(
        mul=mul,
        add=add,
        sample_scale=sample_scale,
        offset=offset,
        midpoint=midpoint,
        first=_activation(activations[0], bounds[:2], arrays[:4]),
        second=_activation(activations[1], bounds[2:], arrays[4:]),
        bypass=bypass,
        residual=residual,
        sums=sums,
    )
    if alpha is not None:
        return run_scaled(packed, weights, alpha, epilogue), sums
    return run_conv(packed, weights, epilogue), sums


@conv.register_fake
def _(
    plane: Tensor,
    plane_shape: list[int],
    words: Tensor,
    counts: Tensor,
    kind: int,
    isa: str,
    geometry: list[int],
    alpha: Tensor | None,
    mul: Tensor | None,
    add: Tensor | None,
    sample_scale: Tensor | None,
    activations: list[int],
    bounds: list[float],
    arrays: list[Tensor],
    bypass: Tensor | None,
    residual: Tensor | None,
    offset: Tensor | None = None,
    midpoint: float = 0.0,
) -> tuple[Tensor, Tensor]:
    weights = weights_of(words, counts, kind, isa, geometry)
    size = weights.out_size(plane_shape[1], plane_shape[2])
    shape = (plane_shape[0], weights.out_channels, *size)
    out = plane.new_empty(shape, dtype=torch.float32).contiguous(memory_format=torch.channels_last)
    return out, plane.new_empty(shape[:2], dtype=torch.float32)


@torch.library.custom_op("binarize::stem", mutates_args=())
def stem(
    x: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    pool: list[int],
    mul: Tensor | None,
    add: Tensor | None,
    activations: list[int],
    bounds: list[float],
    arrays: list[Tensor],
) -> tuple[Tensor, Tensor]:
    """The result, (N, Cout, H', W') channels-last, and its (N, Cout) sums; see `stem.conv_stem`.

    `pool`: kernel h w, stride h w, padding h w, or empty.
    """
    sums = torch.empty(x.shape[0], weight.shape[0], dtype=torch.float32, device="cpu")
    first = _activation(activations[0], bounds[:2], arrays[:4])
    second = _activation(activations[1], bounds[2:], arrays[4:])
    epilogue = Epilogue(mul=mul, add=add, first=first, second=second)
    y = conv_stem(x, weight, epilogue, sums=sums, stride=stride, padding=padding, pool=_pool(pool))
    return y, sums


@stem.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    pool: list[int],
    mul: Tensor | None,
    add: Tensor | None,
    activations: list[int],
    bounds: list[float],
    arrays: list[Tensor],
) -> tuple[Tensor, Tensor]:
    size, last = stem_size(x.shape[2:], weight.shape[2:], stride, padding), _pool(pool)
    shape = (x.shape[0], weight.shape[0], *(size if last is None else last.out_size(size)))
    return x.new_empty(shape).contiguous(memory_format=torch.channels_last), x.new_empty(shape[:2])


def _pool(given: list[int]) -> MaxPool | None:
    if not given:
        return None
    if len(given) != 6:
        raise NativeError(f"pool has {len(given)} entries; expected 6 or none.")
    kh, kw, sh, sw, ph, pw = given
    return MaxPool(kernel=(kh, kw), stride=(sh, sw), padding=(ph, pw))


def weights_of(words: Tensor, counts: Tensor, kind: int, isa: str, geometry: list[int]) -> PackedWeights:
    """Packed weights from an operator's arguments.

    Raises:
        NativeError: `geometry` has another number of entries than 13.
    """
    if len(geometry) != 13:
        raise NativeError(f"geometry has {len(geometry)} entries; expected 13.")
    cin, cout, kh, kw, sh, sw, top, left, bottom, right, dh, dw, groups = geometry
    return PackedWeights(
        kind=_KINDS[kind],
        words=words,
        counts=counts,
        in_channels=cin,
        out_channels=cout,
        kernel=(kh, kw),
        stride=(sh, sw),
        padding=(top, left, bottom, right),
        dilation=(dh, dw),
        groups=groups,
        isa=isa,
    )


def geometry_of(weights: PackedWeights) -> list[int]:
    """The operator's `geometry` of packed weights."""
    w = weights
    ends = (w.in_channels, w.out_channels)
    return [*ends, *w.kernel, *w.stride, *w.padding, *w.dilation, w.groups]


def arrays_of(first: Activation, second: Activation) -> list[Tensor]:
    """The operator's `arrays` of two activations."""
    given = [x for a in (first, second) for x in (a.before, a.negative, a.positive, a.after)]
    return [torch.empty(0, dtype=torch.float32, device="cpu") if x is None else x for x in given]


def _activation(kind: int, bounds: list[float], arrays: list[Tensor]) -> Activation:
    before, negative, positive, after = (x if x.numel() else None for x in arrays)
    return Activation(
        kind=_ACTIVATIONS[kind],
        before=before,
        negative=negative,
        positive=positive,
        after=after,
        low=bounds[0],
        high=bounds[1],
    )
