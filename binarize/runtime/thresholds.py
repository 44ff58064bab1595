"""The activation quantizers of packed layers, in plain torch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from binarize.functional import levels_of, sign
from binarize.functional.dab import (
    groups_to_channels,
    limited,
    mean_of_groups,
    mean_over,
    sample_dims,
    scale_of,
)
from binarize.runtime.layer_data import LayerData
from binarize.runtime.tracing import is_traced


class Thresholds(NamedTuple):
    """How an input is quantized: v = channel * (sign(mul * x + add) + midpoint), times `sample_scale` later.

    Each is None where it would change nothing (1 for `mul`, `channel` and `sample_scale`, 0 for the others).

    Attributes:
        mul: per channel, (1, C, 1, ...) or (C,).
        add: per channel, or per sample and channel.
        midpoint: one number, the middle of the two values.
        channel: per sample and channel, (N, C, 1, ...): it stands inside the sum over input channels.
        sample_scale: per sample, (N, 1, 1, ...), or one number: a factor of the product.
        steps: channels [start, stop) in which v is 1 where x > 0, else 0.
    """

    mul: Tensor | None = None
    add: Tensor | None = None
    midpoint: Tensor | None = None
    channel: Tensor | None = None
    sample_scale: Tensor | None = None
    steps: tuple[tuple[int, int], ...] = ()


def thresholds_of(layer: LayerData, x: Tensor) -> Thresholds:
    """Thresholds and magnitudes for this input: statistics of it and the quantizer's parameters."""
    kind = layer.spec.quantizer.kind
    if kind in ("sign", "levels"):  # several bits have thresholds of their own: `activation_planes`
        return Thresholds()
    if kind == "step":
        return Thresholds(steps=layer.spec.quantizer.ranges or ((0, layer.spec.in_channels),))
    if kind == "shifted":
        return Thresholds(add=layer.channels("beta", x))
    if kind == "shifted_step":
        half = torch.full((), 0.5, dtype=x.dtype, device=x.device)
        return Thresholds(add=layer.channels("beta", x), midpoint=torch.ones_like(half), sample_scale=half)
    if kind == "redistributed":
        return Thresholds(mul=layer.channels("k", x), add=layer.channels("b", x))
    if kind == "adabin":
        alpha, beta = layer.vector("alpha"), layer.vector("beta")
        turn = torch.sign(alpha)  # dividing by alpha turns the comparison around where it is negative
        return Thresholds(mul=turn, add=-turn * beta, midpoint=beta, sample_scale=alpha)
    return _dab(layer, x)


def _dab(layer: LayerData, x: Tensor) -> Thresholds:
    """Those of the DAB (`binarize.functional.dab`): xs = x - (k mean(x) + b), M = mean(abs(xs))."""
    quantizer = layer.spec.quantizer
    last = layer.spec.kind == "linear"
    positions = list(range(1, x.dim() - 1)) if last else list(range(2, x.dim()))
    threshold: Tensor | None = None
    if quantizer.threshold in ("adaptive", "mean"):
        threshold = layer.channels("k", x) * limited(mean_over(x, positions))
    if quantizer.threshold in ("adaptive", "b"):
        b = layer.channels("b", x)
        threshold = b if threshold is None else threshold + b
    add = None if threshold is None else -threshold
    per_sample = quantizer.granularity == "layer"
    magnitude: Tensor | None = None
    if quantizer.scale in ("adaptive", "mad"):
        shifted = x if add is None else x + add
        dims = sample_dims(x) if per_sample else positions
        magnitude = mean_over(shifted.abs(), dims)
        if quantizer.granularity == "group":
            magnitude = mean_of_groups(magnitude, quantizer.groups, layer.spec.dim)
        magnitude = limited(magnitude)
    if quantizer.scale in ("adaptive", "learned"):
        a = layer.channels("a", x)
        if quantizer.granularity == "group":
            a = groups_to_channels(a, layer.spec.in_channels, quantizer.groups, layer.spec.dim)
        magnitude = scale_of(a if magnitude is None else a * (magnitude - 1))
    if per_sample:
        return Thresholds(add=add, sample_scale=magnitude)
    return Thresholds(add=add, channel=magnitude)


def activation_planes(
    layer: LayerData, x: Tensor, thresholds: Thresholds
) -> list[tuple[Tensor, Tensor | None]]:
    """The quantized input without its factor `sample_scale` as a sum: parts, and a factor () of each or None.

    Parts are as `quantized` gives them; of an input of K bits K, the digits of its levels.
    """
    if layer.spec.quantizer.kind != "levels":
        return [(quantized(x, thresholds, layer.spec.dim), None)]
    basis = layer.vector("basis")
    digits = levels_of(basis, signed=layer.spec.quantizer.signed).digits(x)
    return [(digits[k], basis[k]) for k in range(len(basis))]


def quantized(x: Tensor, thresholds: Thresholds, dim: int = 1) -> Tensor:
    """The quantized input without its factor `sample_scale`; shape of `x`, whose channels are in `dim`."""
    if thresholds.steps:
        return _steps(x, thresholds.steps, dim)
    if thresholds.mul is not None:
        x = thresholds.mul * x
    if thresholds.add is not None:
        x = x + thresholds.add
    values = _signs(x)
    if thresholds.midpoint is not None:
        values = values + thresholds.midpoint
    return values if thresholds.channel is None else values * thresholds.channel


def _signs(x: Tensor) -> Tensor:
    # exporters and transforms know no operator on the sign bit
    return torch.where(x >= 0, 1.0, -1.0) if is_traced(x) else sign(x)


def _steps(x: Tensor, ranges: tuple[tuple[int, int], ...], dim: int) -> Tensor:
    """1 where x > 0, else 0, in these channels, and the sign in the others."""
    if ranges == ((0, x.shape[dim]),):
        return (x > 0).to(x.dtype)
    parts, at = [], 0
    for start, stop in ranges:
        parts += [_signs(x.narrow(dim, at, start - at)), (x.narrow(dim, start, stop - start) > 0).to(x.dtype)]
        at = stop
    parts.append(_signs(x.narrow(dim, at, x.shape[dim] - at)))
    return torch.cat(parts, dim)
