"""What the kernels support: of a packed layer, and of the activations around it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from binarize.graph.trace.roles import known_class
from binarize.layers import BiasPReLU, Maxout, Piecewise, RPReLU
from binarize.native.epilogue import Activation
from binarize.native.instruction_set import resolve
from binarize.native.library import available
from binarize.runtime.layer_data import LayerData
from binarize.runtime.spec import PackedSpec

_TAPS = 255  # of a depthwise kernel, which counts in bytes
_PIECE = 5  # channels of one table of scales per channel (AVX2: 4, with no limit to their number)
_TABLES = 2047  # tables of one position
_STEPS = 1365  # of rounded tables, in the largest sum of scales of one table
_DIGITS = 8128  # steps of the largest scale, as AMX rounds it
_NARROW = 8  # channels of a group with scales: AMX expands 64 for fewer, AVX2 looks up 32 outputs
_PRODUCTS = 2**31 // _DIGITS  # of one sum with AMX, which has 32 bits

_TRANSPOSED = "a transposed convolution with a scale per channel"

LARGEST_ERROR = 0.025
"""What rounded scales may do to a layer's sums at most, see `rounding_error`; else they are not rounded."""


def why_not(layer: LayerData, *, exact_scales: bool = False) -> str | None:
    """Why a packed layer is computed by torch instead, or None if the kernels do it.

    Args:
        layer: the layer.
        exact_scales: whether scales per channel may not be rounded (`RuntimeOptions`).
    """
    spec = layer.spec
    if not available():
        return "the native kernels are not installed"
    if layer.vectors.dtype != torch.float32 or layer.vectors.device.type != "cpu":
        return f"{layer.vectors.dtype} on {layer.vectors.device}: the kernels take float32 on the CPU"
    if spec.quantizer.scale == "learned":
        return "a learnt scale without statistics (an ablation)"
    if spec.padding_mode != "zeros":
        return f"padding_mode={spec.padding_mode}"
    if spec.quantizer.ranges and (spec.groups > 1 or spec.offset):
        return "activations of two sets in one layer with groups, or with weights that have an offset"
    if scale_groups(spec) > 1:
        if spec.offset:
            return "scales per group of channels with weights that have an offset"
        if spec.groups > 1:
            return "scales per group of channels in a convolution with groups"
        if spec.kind == "transposed":
            return "a transposed convolution with scales per group of channels"
    return why_not_per_channel(spec, exact_scales=exact_scales)


def why_not_per_channel(spec: PackedSpec, *, exact_scales: bool = False) -> str | None:
    """Why the kernels cannot take the scales per channel of a layer; None if they can, or need not."""
    if not per_channel(spec):
        return None
    if not is_depthwise(spec):
        if spec.offset:
            return "scales per channel with weights that have an offset, for which there are no tables"
        # where a table is not one or two registers, torch's convolution is the faster one
        isa = resolve()
        if isa == "portable":
            return "scales per channel on a processor without AVX2"
        if isa == "avx2" and (exact_scales or why_exact(spec)):
            return "exact scales per channel on a processor without AVX-512 VPOPCNTDQ"
        if isa in ("avx2", "amx") and spec.groups > 1 and spec.in_channels // spec.groups < _NARROW:
            return f"scales per channel in groups of fewer than {_NARROW} channels: torch is faster"
        if isa == "amx":
            wide = spec.in_channels // spec.groups * math.prod(spec.kernel) >= _PRODUCTS
            if wide:
                return "more products of scales per channel than a sum of 32 bits can hold"
            return _TRANSPOSED if spec.kind == "transposed" else None
        pieces = math.ceil(spec.in_channels // spec.groups / _PIECE)
        if spec.groups * math.ceil(pieces / 3) * 3 > _TABLES:
            return "more channels than the tables of scales per channel can hold"
    return _TRANSPOSED if spec.kind == "transposed" else None


def rounding_error(spec: PackedSpec) -> float:
    """The largest error of sums of rounded scales, relative to the sums; root mean squares of both.

    For signs that do not depend on each other, and scales of any sizes. A step is S / 1365, S
    being the largest sum of the five scales a of a table (AVX2: four), and an entry is off by half a step at
    most. Over the taps and C / 5 tables of a position this is at most S / 2730 sqrt(taps C / 5). The sums
    have sqrt(taps sum a^2), at least S sqrt(taps / 5). Together: sqrt(C) / 2730. Scales of similar sizes give
    a fifth of it with 64 channels, and less with more (`docs/kernels.md`).

    With AMX each scale is rounded by itself, to steps of S / 8128, S being the largest scale of a group: the
    errors of C scales are S / 16256 sqrt(taps C) at most, and the sums have at least S sqrt(taps).
    """
    if resolve() == "amx":
        return math.sqrt(spec.in_channels // spec.groups) / (2 * _DIGITS)
    return math.sqrt(spec.in_channels // spec.groups) / (2 * _STEPS)


def why_exact(spec: PackedSpec) -> str | None:
    """Why the scales per channel of a layer are not rounded, even if they may be; None if they are."""
    if rounding_error(spec) > LARGEST_ERROR:
        return f"too many channels: rounding could change the sums by more than {LARGEST_ERROR:.1%}"
    return None


def activation_of(module: nn.Module | None) -> Activation | None:
    """The kernels' form of an activation module; None if they do not know it."""
    kind = None if module is None else known_class(module)
    if kind is None or kind is nn.Identity:
        return Activation()
    known: Any = module
    if kind is BiasPReLU:
        return Activation(kind="piecewise", before=_flat(known.b0), negative=_flat(known.weight))
    if kind is RPReLU:
        before, negative, after = _flat(known.b0), _flat(known.weight), _flat(known.b1)
        return Activation(kind="piecewise", before=before, negative=negative, after=after)
    if kind is Maxout:
        return Activation(kind="piecewise", negative=_flat(known.q), positive=_flat(known.p))
    if kind is Piecewise:
        before, negative, positive, after = (None if p is None else _flat(p) for p in known.pieces())
        return Activation(kind="piecewise", before=before, negative=negative, positive=positive, after=after)
    if kind is nn.ReLU:
        return Activation(kind="piecewise")
    if kind is nn.Hardtanh:
        return Activation(kind="clamp", low=float(known.min_val), high=float(known.max_val))
    return None


def _flat(x: Tensor) -> Tensor:
    return x.detach().reshape(-1).float()


def can_interpolate(spec: PackedSpec) -> bool:
    """Whether the kernels can resize the layer's input while they pack it."""
    plain = spec.kind == "conv" and len(spec.kernel) == 2 and not spec.quantizer.ranges
    plain = plain and not spec.sum_of_binary
    return plain and not is_depthwise(spec)


def wants_means(spec: PackedSpec) -> bool:
    """Whether the layer's thresholds depend on the means of its input's channels."""
    quantizer = spec.quantizer
    return quantizer.kind == "dab" and quantizer.threshold in ("adaptive", "mean")


def is_depthwise(spec: PackedSpec) -> bool:
    """Whether the layer has one filter per channel, with few enough taps to be counted."""
    alone = spec.groups == spec.in_channels == spec.out_channels
    return spec.kind == "conv" and alone and math.prod(spec.kernel) <= _TAPS


def scale_groups(spec: PackedSpec) -> int:
    """Groups of input channels whose sums are scaled one by one; 1 for none (and of depthwise layers)."""
    quantizer = spec.quantizer
    scaled = quantizer.kind == "dab" and quantizer.scale != "none" and not is_depthwise(spec)
    return max(1, quantizer.scale_groups(spec.in_channels)) if scaled else 1


def scales_differ(spec: PackedSpec) -> bool:
    """Whether channels of an image have different scales: of a depthwise layer, factors of its outputs."""
    quantizer = spec.quantizer
    scaled = quantizer.kind == "dab" and quantizer.scale != "none"
    return scaled and quantizer.scale_groups(spec.in_channels) != 1


def per_channel(spec: PackedSpec) -> bool:
    """Whether activations have a scale per channel, which stands inside the sum over input channels."""
    quantizer = spec.quantizer
    return quantizer.kind == "dab" and quantizer.granularity == "channel" and quantizer.scale != "none"
