"""The numbers of a packed layer: signs as bits, and scale, offset and shift of each filter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from binarize.layers import SignForm
from binarize.layers.norm import affine_of
from binarize.runtime.packing.bits import pack_signs
from binarize.runtime.packing.describe import Refusal, folds, sign_form_of
from binarize.runtime.spec import PackedSpec

_PARAMETERS = {
    "sign": (),
    "step": (),
    "shifted": ("beta",),
    "shifted_step": ("beta",),
    "redistributed": ("k", "b"),
    "adabin": ("alpha", "beta"),
}


def numbers_of(layer: Any, spec: PackedSpec) -> tuple[Tensor, Tensor] | Refusal:
    """The bits and vectors of a packed layer.

    BatchNorm, bias and weight scale are folded in float64: with W = m S + o per filter, S the signs, and
    BatchNorm g (y - mean) / sqrt(var + eps) + c, f = g / sqrt(var + eps), the layer gets scale = m f,
    offset = o f and shift = (bias - mean) f + c, then rounded to the dtype of the weights.

    Args:
        layer: a `BinaryLayer` on the CPU.
        spec: what `describe` says of it.

    Returns:
        (planes * ceil(weights / 8),) uint8 and (sum of `spec.vectors()`,), see `LayerData`.
    """
    several = spec.weight_planes > 1
    levels = _planes(layer) if several else _levels(layer.binary_filters(), centred=not spec.offset)
    if isinstance(levels, Refusal):
        return levels
    positive, scale, offset = levels
    shift = torch.zeros_like(offset) if layer.own_bias is None else layer.own_bias.detach().double()
    if layer.norm is not None and folds(layer.norm):
        factor, constant = affine_of(layer.norm)
        scale, offset, shift = scale * factor, offset * factor, shift * factor + constant
    quantizer, factor = _quantizer_vectors(layer.quantizer, spec.quantizer.kind, spec.in_channels)
    scale, offset = scale * factor, offset * factor
    vectors = {"scale": scale, "offset": offset, "shift": shift, **quantizer}
    flat = torch.cat([vectors[name].detach().reshape(-1).double() for name in spec.vectors()])
    flat = flat.to(layer.weight.dtype)
    if not bool(torch.isfinite(flat).all()):
        return Refusal("its scales, norm or quantizer hold numbers that are not finite")
    if spec.quantizer.kind == "adabin" and not float(vectors["alpha"].detach()):
        return Refusal("alpha_a of its quantizer is 0: its input would be lost")
    bits = torch.cat([pack_signs(plane) for plane in positive]) if several else pack_signs(positive)
    return bits, flat


def _planes(layer: Any) -> tuple[Tensor, Tensor, Tensor] | Refusal:
    """Signs (planes, Cout, ...), scales (planes, Cout) and offsets of 0: a weight is sum scale * sign."""
    with torch.no_grad():
        found = layer.weight_rule.signs(layer._latent_filters(), *layer.weight_parameters())
    if found is None:
        return Refusal("its weight rule does not say which binary weights its weights are the sum of")
    positive, scale = found[0], found[1].double()
    weight = layer.binary_filters().double()
    off = (torch.where(positive, scale, -scale).sum(0) - weight).abs()
    if not bool((off <= 1e-5 * weight.abs().amax()).all()):
        return Refusal("its weights are not the sum of the binary weights that its rule says")
    scale = scale.flatten(1)
    return positive, scale, torch.zeros_like(scale[0])


def _levels(weight: Tensor, *, centred: bool) -> tuple[Tensor, Tensor, Tensor] | Refusal:
    """Signs (bool), scale and offset per filter (float64) with weight = scale * sign + offset.

    Of a filter with one value only, that value is the scale (with its sign) and the offset is 0.
    """
    flat = weight.reshape(weight.shape[0], -1)
    high, low = flat.amax(1, keepdim=True), flat.amin(1, keepdim=True)
    top, bottom = high.double(), low.double()
    if not bool(torch.isfinite(top - bottom).all()):
        return Refusal("its weights hold numbers that are not finite")
    upper = flat == high
    if not bool(torch.where(upper, True, flat == low).all()):
        return Refusal("its weight rule gives more than two values per filter")
    single = top == bottom
    positive = torch.where(single, flat >= 0, upper) if bool(single.any()) else upper
    scale = torch.where(single, top.abs(), (top - bottom) / 2)
    offset = torch.where(single, 0, (top + bottom) / 2)
    if centred and bool(offset.any()):
        return Refusal("its weights are not +-scale, as its rule promises")
    return positive, scale.reshape(-1), offset.reshape(-1)


def _quantizer_vectors(quantizer: Any, kind: str, channels: int) -> tuple[dict[str, Tensor], float]:
    """The parameters of the packed quantizer, and a factor of its two values, which stands at the weights."""
    if kind == "levels":
        return {"basis": quantizer.level_form().basis}, 1.0
    form = sign_form_of(quantizer)
    if isinstance(form, SignForm):
        shift = form.shift
        if shift is None:  # only `sign` has none
            shift = torch.zeros(channels, dtype=torch.double)
        given = (form.scale, shift) if kind == "redistributed" else (shift,)
        known = zip(_PARAMETERS[kind], given, strict=False)
        vectors = {name: v.reshape(-1).expand(channels) for name, v in known if v is not None}
        return vectors, 1.0 if form.factor is None else float(form.factor)
    if kind == "dab":
        return {name: getattr(quantizer, name) for name in quantizer.rule.names()}, 1.0
    return dict(zip(_PARAMETERS[kind], quantizer.rule_parameters(), strict=False)), 1.0
