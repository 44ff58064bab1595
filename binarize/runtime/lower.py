"""From a trained binary layer to a packed one, or the reason why it cannot be one."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from binarize.functional import (
    ApproxSign,
    CentredScaledSign,
    DabRule,
    Geometry,
    RedistributedSign,
    ScaledSign,
    ShiftedSign,
    SteSign,
    SteStep,
)
from binarize.functional.activations import AdaBinSet
from binarize.graph.hooks import has_hooks, take_hooks
from binarize.layers import (
    DAB,
    AdaBinSign,
    ApproxSignQuantizer,
    BiasPReLU,
    BinaryConv1d,
    BinaryConv2d,
    BinaryConvTranspose2d,
    BinaryLinear,
    Bypass,
    ChannelLastBatchNorm,
    Maxout,
    Redistribution,
    RPReLU,
    ShiftedSignQuantizer,
    SignSTE,
    StepSTE,
    TokenSign,
)
from binarize.runtime.bits import pack_signs
from binarize.runtime.packed import PackedLayer
from binarize.runtime.spec import PackedSpec, QuantizerSpec

_KINDS: dict[type[nn.Module], str] = {
    BinaryConv1d: "conv",
    BinaryConv2d: "conv",
    BinaryConvTranspose2d: "transposed",
    BinaryLinear: "linear",
}
_QUANTIZERS: dict[type[nn.Module], tuple[str, type]] = {
    SignSTE: ("sign", SteSign),
    StepSTE: ("step", SteStep),
    ApproxSignQuantizer: ("sign", ApproxSign),
    ShiftedSignQuantizer: ("shifted", ShiftedSign),
    TokenSign: ("shifted", ShiftedSign),
    Redistribution: ("redistributed", RedistributedSign),
    AdaBinSign: ("adabin", AdaBinSet),
    DAB: ("dab", DabRule),
}
_PARAMETERS = {
    "sign": (),
    "step": (),
    "shifted": ("beta",),
    "redistributed": ("k", "b"),
    "adabin": ("alpha", "beta"),
}
_CENTRED = (SteSign, ScaledSign, CentredScaledSign)
"""Weight rules whose two values are +-scale, whatever the weights are."""
_FOLDED = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, ChannelLastBatchNorm)
_INNER = {RPReLU: "rprelu", BiasPReLU: "bias_prelu", Maxout: "maxout"}


@dataclass(frozen=True)
class Refusal:
    """Why a layer cannot be packed."""

    reason: str


def describe(layer: nn.Module) -> PackedSpec | Refusal:
    """What the packed form of `layer` is, apart from its numbers; it may be without data (meta device)."""
    kind = _KINDS.get(type(layer))
    if kind is None:
        return Refusal(f"{type(layer).__name__} is no binary layer that the packed runtime knows")
    known: Any = layer  # one of the four classes, all of which are a `BinaryLayer`
    reason = _tampered(known)
    if reason is not None:
        return Refusal(reason)
    quantizer = describe_quantizer(known.quantizer)
    if isinstance(quantizer, Refusal):
        return quantizer
    if quantizer.ranges and known.quantizer.rule.dim != (-1 if kind == "linear" else 1):
        return Refusal("its quantizer has the channels at another place than the layer")
    norm = None if known.norm is None or _folds(known.norm) else _describe_norm(known)
    bypass = _describe_bypass(known, kind)
    if isinstance(bypass, Refusal):
        return bypass
    return PackedSpec(
        kind=kind,
        quantizer=quantizer,
        offset=type(known.weight_rule) not in _CENTRED,
        norm=norm,
        inner=None if known.inner is None else _describe_inner(known.inner),
        bypass=bypass,
        **_geometry(known, kind),
    )


def lower(layer: nn.Module) -> PackedLayer | Refusal:
    """The packed form of `layer` in evaluation mode; the layer is left untouched.

    BatchNorm, bias and weight scale are folded in float64: with W = m S + o per filter, S the signs, and
    BatchNorm g (y - mean) / sqrt(var + eps) + c, f = g / sqrt(var + eps), the layer gets scale = m f,
    offset = o f and shift = (bias - mean) f + c, then rounded to the dtype of the weights.

    Args:
        layer: a `BinaryLayer` on the CPU.
    """
    spec = describe(layer)
    if isinstance(spec, Refusal):
        return spec
    known: Any = layer
    levels = _levels(_filters(known, spec), centred=not spec.offset)
    if isinstance(levels, Refusal):
        return levels
    positive, scale, offset = levels
    shift = torch.zeros_like(scale) if known.own_bias is None else known.own_bias.detach().double()
    if known.norm is not None and _folds(known.norm):
        factor, constant = _affine(known.norm)
        scale, offset, shift = scale * factor, offset * factor, shift * factor + constant
    vectors = {"scale": scale, "offset": offset, "shift": shift, **_quantizer_vectors(known.quantizer)}
    flat = torch.cat([vectors[name].detach().reshape(-1).double() for name in spec.vectors()])
    flat = flat.to(known.weight.dtype)
    if not bool(torch.isfinite(flat).all()):
        return Refusal("its scales, norm or quantizer hold numbers that are not finite")
    if spec.quantizer.kind == "adabin" and not float(vectors["alpha"].detach()):
        return Refusal("alpha_a of its quantizer is 0: its input would be lost")
    packed = empty_packed(layer, spec)
    packed.bits, packed.vectors = pack_signs(positive), flat
    take_hooks(packed, layer)
    return packed


def empty_packed(layer: nn.Module, spec: PackedSpec) -> PackedLayer:
    """The packed layer of that spec, its numbers still to come, with a copy of what `layer` keeps."""
    known: Any = layer
    packed = PackedLayer(
        spec,
        norm=copy.deepcopy(known.norm) if spec.norm is not None else None,
        inner=copy.deepcopy(known.inner) if spec.inner is not None else None,
        dtype=known.vectors.dtype if isinstance(layer, PackedLayer) else known.weight.dtype,
    )
    packed.float_bias = known.float_bias
    return packed


def describe_quantizer(quantizer: nn.Module) -> QuantizerSpec | Refusal:
    """Its kind and variant, if it is one of ours and nothing hangs on it."""
    name = type(quantizer).__name__
    kind, rule = _QUANTIZERS.get(type(quantizer), ("", object))
    known: Any = quantizer
    if not kind or type(known.rule) is not rule:
        return Refusal(f"its quantizer {name} is none that the packed runtime knows")
    if has_hooks(quantizer) or "forward" in quantizer.__dict__:
        return Refusal(f"hooks or a forward of its own hang on its quantizer {name}: remove them first")
    if kind == "step":
        return QuantizerSpec(kind=kind, ranges=known.rule.ranges)
    if kind != "dab":
        return QuantizerSpec(kind=kind)
    return QuantizerSpec(
        kind=kind,
        threshold=known.rule.threshold,
        scale=known.rule.scale,
        granularity=known.rule.granularity,
    )


def _tampered(layer: Any) -> str | None:
    """What was done to a layer of a known class that its packed form would not do."""
    if "forward" in layer.__dict__:
        return "its forward was replaced on the instance: undo that first"
    if parametrize.is_parametrized(layer):
        return "it is parametrized: remove the parametrization (or fold it in) first"
    for name in ("norm", "weight_transform"):
        part = getattr(layer, name)
        if part is not None and (name != "norm" or _folds(part)) and has_hooks(part):
            return f"hooks hang on its {name}, which is folded into the scales: remove them first"
    if _folds(layer.norm) and layer.norm.running_mean is None:
        return "its BatchNorm has no running statistics, so that a result depends on the rest of its batch"
    return None


def _folds(norm: nn.Module | None) -> bool:
    return type(norm) in _FOLDED


def _describe_norm(layer: Any) -> dict[str, Any]:
    norm = layer.norm
    if type(norm) is nn.LayerNorm and len(norm.normalized_shape) == 1 and isinstance(layer, BinaryLinear):
        return {"kind": "layer", "eps": float(norm.eps)}
    return {"kind": "module", "class": _class_name(norm)}


def _describe_inner(inner: nn.Module) -> dict[str, Any]:
    kind = _INNER.get(type(inner))  # type: ignore[call-overload] - any class may be asked for
    return {"kind": "module", "class": _class_name(inner)} if kind is None else {"kind": kind}


def _class_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _describe_bypass(layer: Any, kind: str) -> str | Refusal | None:
    way = layer.bypass
    if way is None:
        return None
    channels = (way.in_channels, way.out_channels) if type(way) is Bypass else ()
    if channels != _channels_of(layer) or has_hooks(way):
        return Refusal(f"its bypass {type(way).__name__} is not the one that its method builds")
    stride = () if kind == "linear" else tuple(layer.stride)
    if (way.stride, way.transposed, way.dim) != (stride, kind == "transposed", -1 if kind == "linear" else 1):
        return Refusal("its bypass has another stride than the layer")
    return way.fit


def _channels_of(layer: Any) -> tuple[int, int]:
    if isinstance(layer, BinaryLinear):
        return layer.in_features, layer.out_features
    return layer.in_channels, layer.out_channels


def _geometry(layer: Any, kind: str) -> dict[str, Any]:
    cin, cout = _channels_of(layer)
    if kind == "linear":
        return {"in_channels": cin, "out_channels": cout}
    given: dict[str, Any] = {
        "in_channels": cin,
        "out_channels": cout,
        "kernel": tuple(layer.kernel_size),
        "stride": tuple(layer.stride),
        "dilation": tuple(layer.dilation),
        "groups": layer.groups,
    }
    if kind == "transposed":
        padding = tuple((p, p) for p in layer.padding)
        return {**given, "padding": padding, "output_padding": tuple(layer.output_padding)}
    same = bool(layer.same_padding)
    padding = ((0, 0),) * len(layer.kernel_size) if same else tuple(layer._static_pads())
    return {**given, "padding": padding, "same": same, "padding_mode": layer.padding_mode}


def _filters(layer: Any, spec: PackedSpec) -> Tensor:
    """The weights that the layer computes with, output filters first, in their own dtype."""
    with torch.no_grad():
        weight = layer.weight if layer.weight_transform is None else layer.weight_transform(layer.weight)
        if spec.kind == "transposed":
            weight = Geometry((), (), (), spec.groups, True).filters_first(weight)
        return layer.weight_rule.quantize(weight)[0]


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


def _affine(norm: Any) -> tuple[Tensor, Tensor]:
    """Factor and constant of a batch norm in evaluation mode, float64."""
    factor = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        factor = factor * norm.weight.detach().double()
    constant = -norm.running_mean.double() * factor
    return factor, constant if norm.bias is None else constant + norm.bias.detach().double()


def _quantizer_vectors(quantizer: Any) -> dict[str, Tensor]:
    kind, _ = _QUANTIZERS[type(quantizer)]
    if kind == "dab":
        return {name: getattr(quantizer, name) for name in quantizer.rule.names()}
    return dict(zip(_PARAMETERS[kind], quantizer.rule_parameters(), strict=False))
