"""What the packed form of a trained layer is, apart from its numbers, or the reason why it has none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from binarize.functional import (
    ApproxSign,
    DabRule,
    RedistributedSign,
    ShiftedSign,
    SteSign,
    SteStep,
)
from binarize.functional.activations import AdaBinSet
from binarize.graph.hooks import has_hooks
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
    Piecewise,
    PiecewiseLinear,
    Redistribution,
    RPReLU,
    ShiftedSignQuantizer,
    SignSTE,
    StepSTE,
    TokenSign,
)
from binarize.layers.norm import why_no_affine
from binarize.layers.quantizers import LevelForm, Quantizer, SignForm
from binarize.model_info import qualified_name
from binarize.runtime.spec import MOST_BITS, MOST_PLANES, PackedSpec, QuantizerSpec

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
_FOLDED = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, ChannelLastBatchNorm)
_INNER = {RPReLU: "rprelu", BiasPReLU: "bias_prelu", Maxout: "maxout", Piecewise: "piecewise"}


@dataclass(frozen=True)
class Refusal:
    """Why a layer cannot be packed.

    Attributes:
        reason: for people, as `deploy_report` prints it.
    """

    reason: str


def describe(layer: nn.Module) -> PackedSpec | Refusal:
    """What the packed form of `layer` is, apart from its numbers; it may be without data (meta device)."""
    kind = _KINDS.get(type(layer))
    if kind is None:
        return Refusal(f"{type(layer).__name__} is not a binary layer that the packed runtime knows")
    known: Any = layer  # one of the four classes, all of which are a `BinaryLayer`
    reason = _tampered(known)
    if reason is not None:
        return Refusal(reason)
    planes = known.weight_rule.planes
    if not 1 <= planes <= MOST_PLANES:
        return Refusal(f"its weights have {planes} bits: packed layers have up to {MOST_PLANES}")
    quantizer = describe_quantizer(known.quantizer)
    if isinstance(quantizer, Refusal):
        return quantizer
    if quantizer.ranges and known.quantizer.rule.dim != (-1 if kind == "linear" else 1):
        return Refusal("its quantizer has the channels at another place than the layer")
    norm = None if known.norm is None or folds(known.norm) else _describe_norm(known)
    bypass = _describe_bypass(known, kind)
    if isinstance(bypass, Refusal):
        return bypass
    return PackedSpec(
        kind=kind,
        quantizer=quantizer,
        offset=planes == 1 and not known.weight_rule.symmetric,
        weight_planes=planes,
        norm=norm,
        inner=None if known.inner is None else _describe_inner(known.inner),
        bypass=bypass,
        **_geometry(known, kind),
    )


def describe_quantizer(quantizer: nn.Module) -> QuantizerSpec | Refusal:
    """Its kind and variant, if it is one of ours and nothing hangs on it."""
    name = type(quantizer).__name__
    kind, rule = _QUANTIZERS.get(type(quantizer), ("", object))
    known: Any = quantizer
    if isinstance(quantizer, Quantizer) and quantizer.planes > 1:
        return _describe_levels(quantizer)
    form = sign_form_of(quantizer)
    if isinstance(form, str):
        return Refusal(form)
    if form is None and (not kind or type(known.rule) is not rule):
        return Refusal(f"its quantizer {name} is not one that the packed runtime knows")
    if (tampered := _tampered_quantizer(quantizer)) is not None:
        return tampered
    if form is not None:
        return _describe_sign(form)
    if kind == "step":
        return QuantizerSpec(kind=kind, ranges=known.rule.ranges)
    if kind != "dab":
        return QuantizerSpec(kind=kind)
    return QuantizerSpec(
        kind=kind,
        threshold=known.rule.threshold,
        scale=known.rule.scale,
        granularity=known.rule.granularity,
        groups=known.rule.groups if known.rule.granularity == "group" else 0,
    )


def _tampered_quantizer(quantizer: nn.Module) -> Refusal | None:
    if not any(has_hooks(part) or "forward" in part.__dict__ for part in quantizer.modules()):
        return None
    name = type(quantizer).__name__
    return Refusal(f"hooks or a forward of its own hang on its quantizer {name}: remove them first")


def _describe_levels(quantizer: Quantizer) -> QuantizerSpec | Refusal:
    form = level_form_of(quantizer)
    if isinstance(form, str):
        return Refusal(form)
    if (tampered := _tampered_quantizer(quantizer)) is not None:
        return tampered
    if not 2 <= len(form.basis) <= MOST_BITS:
        return Refusal(f"its quantizer has {len(form.basis)} bits: packed layers have up to {MOST_BITS}")
    return QuantizerSpec(kind="levels", bits=len(form.basis), signed=form.signed)


def level_form_of(quantizer: Quantizer) -> LevelForm | str:
    """What a quantizer of several bits says that it computes, or why it does not."""
    if "level_form" not in vars(type(quantizer)):
        return f"its quantizer {type(quantizer).__name__} does not say its levels"
    return quantizer.level_form()


def sign_form_of(quantizer: nn.Module) -> SignForm | str | None:
    """What a quantizer says that it computes, see `Quantizer.sign_form`; None if its class says nothing."""
    says = isinstance(quantizer, Quantizer) and "sign_form" in vars(type(quantizer))
    return quantizer.sign_form() if says else None  # type: ignore[operator] - a Quantizer


def _describe_sign(form: SignForm) -> QuantizerSpec | Refusal:
    if form.unsigned and form.scale is not None:
        return Refusal("its quantizer has a scale per channel in front of {0, 1}")
    if form.unsigned:
        return QuantizerSpec(kind="shifted_step")
    if form.scale is not None:
        return QuantizerSpec(kind="redistributed")
    return QuantizerSpec(kind="sign" if form.shift is None else "shifted")


def _tampered(layer: Any) -> str | None:
    """What was done to a layer of a known class that its packed form would not do."""
    if "forward" in layer.__dict__:
        return "its forward was replaced on the instance: undo that first"
    if parametrize.is_parametrized(layer):
        return "it is parametrized: remove the parametrization (or fold it in) first"
    state = layer.weight_state
    if state is not None and state.unfinished:
        return state.unfinished
    if state is not None and has_hooks(state):
        return "hooks hang on its weight_state: remove them first"
    for name in ("norm", "weight_transform"):
        part = getattr(layer, name)
        if part is not None and (name != "norm" or folds(part)) and has_hooks(part):
            return f"hooks hang on its {name}, which is folded into the scales: remove them first"
    if folds(layer.norm) and (reason := why_no_affine(layer.norm)) is not None:
        return reason
    pieces = layer.inner.pieces() if isinstance(layer.inner, PiecewiseLinear) else None
    return pieces if isinstance(pieces, str) else None


def folds(norm: nn.Module | None) -> bool:
    """Whether a norm goes into the scales."""
    return type(norm) in _FOLDED


def _describe_norm(layer: Any) -> dict[str, Any]:
    norm = layer.norm
    if type(norm) is nn.LayerNorm and len(norm.normalized_shape) == 1 and isinstance(layer, BinaryLinear):
        return {"kind": "layer", "eps": float(norm.eps)}
    return {"kind": "module", "class": qualified_name(norm)}


def _describe_inner(inner: nn.Module) -> dict[str, Any]:
    kind = _INNER.get(type(inner))  # type: ignore[call-overload] - any class may be asked for
    if isinstance(inner, PiecewiseLinear) and not any(has_hooks(part) for part in inner.modules()):
        kind = "piecewise"
    return {"kind": "module", "class": qualified_name(inner)} if kind is None else {"kind": kind}


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
