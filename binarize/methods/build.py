"""From a float layer to its binary replacement; the float weights become the latent weights."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from binarize.errors import ConfigError
from binarize.layers import (
    BinaryConv1d,
    BinaryConv2d,
    BinaryConvTranspose2d,
    BinaryLayer,
    BinaryLinear,
    StepSTE,
)
from binarize.layers.bypass import fit_of
from binarize.layers.recipe import Kind, MethodLike, Recipe, Site, resolve
from binarize.methods.base import Method
from binarize.random_state import drawing_from

# Conv2d subclasses whose forward this module knows, by name: image-model libraries are not imported here.
_SAME = {"Conv2dSame", "StdConv2dSame", "ScaledStdConv2dSame"}
_STANDARDIZED = {"StdConv2d", "StdConv2dSame", "ScaledStdConv2d", "ScaledStdConv2dSame"}
_PLAIN_LINEAR = {"Linear", "NonDynamicallyQuantizableLinear"}
BINARY_ALREADY = "is binary already"
_BASES: dict[type[nn.Module], type[BinaryLayer]] = {
    nn.Conv1d: BinaryConv1d,
    nn.Conv2d: BinaryConv2d,
    nn.ConvTranspose2d: BinaryConvTranspose2d,
    nn.Linear: BinaryLinear,
}
_GEOMETRY = {
    *("in_channels", "out_channels", "in_features", "out_features"),
    *("kernel_size", "stride", "padding", "dilation", "groups"),
}


class WeightStandardization(nn.Module):
    """Per filter (w - mean) / sqrt(var + eps) * gain * scale, applied to latent weights before binarization.

    Args:
        eps: of the variance (biased).
        scale: constant factor.
        gain: (Cout, 1, 1, 1) learnable, or None for 1.
    """

    gain: nn.Parameter | None

    def __init__(self, eps: float, scale: float = 1.0, gain: nn.Parameter | None = None) -> None:
        super().__init__()
        self.eps = eps
        self.scale = scale
        self.register_parameter("gain", gain)

    def forward(self, weight: Tensor) -> Tensor:
        """(Cout, Cin, h, w) -> the same shape."""
        factor = None if self.gain is None else (self.gain * self.scale).reshape(-1)
        flat = weight.reshape(1, weight.shape[0], -1)
        normed = F.batch_norm(flat, None, None, weight=factor, training=True, momentum=0.0, eps=self.eps)
        return normed.reshape(weight.shape)


def why_not(layer: nn.Module) -> str | None:
    """Why `layer` is no kind of layer that has a binary replacement, or None if it is one."""
    if isinstance(layer, BinaryLayer):
        return BINARY_ALREADY
    base = next((base for base in _BASES if isinstance(layer, base)), None)
    if base is None:
        if isinstance(layer, (nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose3d)):
            return f"{type(layer).__name__} has no binary replacement"
        return f"{type(layer).__name__} is not a convolution or linear layer"
    if isinstance(layer, LazyModuleMixin):
        return "is lazy: run the model once before converting it"
    if parametrize.is_parametrized(layer):
        names = " and ".join(layer.parametrizations)  # type: ignore[arg-type]
        return f"its {names} is parametrized: remove the parametrization (or fold it in) first"
    weight = layer._parameters.get("weight")
    if weight is None:
        return "its weight is computed (weight_norm, spectral_norm, pruning): fold it in first"
    if not weight.is_floating_point():
        return f"its weight is {weight.dtype}, not float"
    if is_traceable_wrapper_subclass(weight):
        return f"its weight is a {type(weight).__name__}: convert before sharding or quantizing"
    if layer._state_dict_hooks or layer._load_state_dict_pre_hooks or layer._load_state_dict_post_hooks:
        return "has state dict hooks, which know the float layer: remove them first"
    if "forward" in layer.__dict__:
        return "its forward was replaced on the instance: undo that first"
    name = type(layer).__name__
    known = (
        type(layer) is base or name in _SAME | _STANDARDIZED or (base is nn.Linear and name in _PLAIN_LINEAR)
    )
    own = [getattr(type(layer), n, None) is not getattr(base, n, None) for n in ("forward", "_conv_forward")]
    if not known and any(own):
        return f"{name} has a forward of its own that is not known here"
    if isinstance(layer, nn.ConvTranspose2d) and layer.padding_mode != "zeros":
        return f"padding_mode={layer.padding_mode!r} of a transposed convolution"
    return None


def site_of(layer: nn.Module, *, kind: Kind | None = None, **context: Any) -> Site:
    """The site that `layer` makes; `context` are the fields of `Site` that only a graph knows.

    Raises:
        ConfigError: for a layer without a binary replacement.
    """
    reason = why_not(layer)
    if reason is not None:
        raise ConfigError(f"{reason}; expected nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d or nn.Linear.")
    if isinstance(layer, nn.Linear):
        return Site(
            kind=kind or "token",
            in_channels=layer.in_features,
            out_channels=layer.out_features,
            has_bias=layer.bias is not None,
            **context,
        )
    conv: Any = layer
    return Site(
        kind="conv",
        in_channels=conv.in_channels,
        out_channels=conv.out_channels,
        kernel=tuple(conv.kernel_size),
        stride=tuple(conv.stride),
        groups=conv.groups,
        transposed=conv.transposed,
        fit=_fit(conv),
        has_bias=conv.bias is not None,
        **context,
    )


def _fit(conv: Any) -> str:
    if type(conv).__name__ in _SAME or conv.padding == "same":
        return "ceil"
    padding = (0,) * len(conv.kernel_size) if conv.padding == "valid" else conv.padding
    if not conv.transposed:
        return fit_of(conv.kernel_size, conv.stride, padding, conv.dilation)
    reach = zip(conv.kernel_size, conv.stride, padding, conv.dilation, conv.output_padding, strict=True)
    exact = all(d * (k - 1) + 1 - 2 * p + extra == s for k, s, p, d, extra in reach)
    return "floor" if exact else "crop"


def build(
    float_layer: nn.Module, method: Method, site: Site, *, norm: bool = True, bypass: bool = True
) -> nn.Module:
    """The binary replacement of a layer at `site`; the layer is left alone, its parameters are shared.

    Args:
        float_layer: a layer for which `why_not` is None.
        method: whose parts are used.
        site: see `site_of`.
        norm: False leaves the method's normalization out (a caller brings one).
        bypass: False leaves the method's bypass out.
    """
    layer: Any = float_layer  # one of several classes, each checked by `why_not`
    composite = None
    if bypass:
        composite = method.compose(site, layer.weight, dilation=getattr(layer, "dilation", ()))
    if composite is not None:
        for name in _GEOMETRY & vars(layer).keys():  # what forwards ask their layers for
            setattr(composite, name, getattr(layer, name))
        return _as(layer, composite)
    recipe = method.recipe(site)
    cls: Any = next(binary for base, binary in _BASES.items() if isinstance(layer, base))
    with torch.device("meta"):  # nothing of the layer's own start values is wanted
        built: Any = cls(**_arguments(layer, site), method=_Shell(recipe), norm=False, bypass=bypass)
    way = built.bypass
    built._assemble(recipe, site, norm=norm, bypass=way)
    _as(layer, built)
    built.weight = layer.weight
    if built.bias is not None:
        built.bias = layer.bias
    if type(layer).__name__ in _SAME and any(
        s > 1 or k > 1 for s, k in zip(site.stride, site.kernel, strict=True)
    ):
        built.use_same_padding()
    if type(layer).__name__ in _STANDARDIZED:
        gain: Any = getattr(layer, "gain", None)
        eps: Any = layer.eps
        built.weight_transform = WeightStandardization(eps, getattr(layer, "scale", 1.0), gain)
    _expect_statistics(built)
    return built


def _expect_statistics(built: BinaryLayer) -> None:
    """Start a fresh BatchNorm's running variance from what inputs of +-1 give: sum(wb^2) per filter.

    Of inputs of 0 and 1, as often the one as the other: a quarter of that, around half the sum of wb. So that
    a network can be evaluated before it was trained: without it, the sums of +-1 of methods without a weight
    scale would pass as they are, tens of times too large.
    """
    norm: Any = built.norm
    if getattr(norm, "running_var", None) is None or built.weight.is_meta:
        return
    weight = built.binary_weight()
    if isinstance(built.quantizer, StepSTE) and not built.quantizer.rule.ranges:
        weight = weight / 2  # the deviation of inputs of 0 and 1, whose mean moves that of the output
    if isinstance(built, nn.ConvTranspose2d):  # a stride of s lets 1 in s^2 of the kernel meet each output
        norm.running_var.fill_(float(weight.square().sum()) / built.out_channels / math.prod(built.stride))
        return
    power = torch.linalg.vector_norm(weight, 2, list(range(1, weight.dim()))).square_()
    norm.running_var.copy_(torch.where(power > 0, power, torch.ones_like(power)))


def binary_layer(
    layer: nn.Module,
    method: str | MethodLike = "bidense",
    *,
    norm: bool = True,
    bypass: bool = True,
    kind: Kind | None = None,
    generator: torch.Generator | None = None,
    nonnegative_input: bool = False,
    **options: Any,
) -> nn.Module:
    """The binary replacement of one float layer, with a copy of its weights as latent weights.

    Args:
        layer: nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d or nn.Linear (timm's padded and weight-standardized
            convolutions too); it is left untouched.
        method: name or method object.
        norm: False leaves the method's normalization out.
        bypass: False leaves the method's bypass out.
        kind: `pointwise` for a linear layer that works on maps (N, H, W, C).
        generator: of the CPU, for the start values that a method draws; by default they are the same in every
            call, `torch.default_generator` draws them from torch's global state.
        nonnegative_input: the layer will see no negative values: bnn's activations are {0, 1} then.
        **options: of the method, if it is given by name.

    Returns:
        A module that takes what `layer` takes and gives the same shape.

    Raises:
        ConfigError: a layer without a binary replacement or one that the method refuses, an unknown method
            or option.
    """
    chosen = resolve(method, options)
    try:
        site = site_of(layer, kind=kind)
    except ConfigError as error:
        raise ConfigError(f"binary_layer: {error}") from None
    if nonnegative_input:
        site = dataclasses.replace(site, nonnegative=((0, site.in_channels),))
    reason = chosen.refuses(site)
    if reason is not None:
        raise ConfigError(f"binary_layer: {type(layer).__name__}: {reason}")
    with drawing_from(generator):
        built = build(layer, chosen, site, norm=norm, bypass=bypass)
    for module in built.modules():  # build() shares; a single layer is the caller's own
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                copy = nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)
                module.register_parameter(name, copy)
    return built


class _Shell:
    """A method for one layer whose recipe is known and whose parts are assembled later."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = dataclasses.replace(recipe, quantizer=nn.Identity, inner=None)

    def recipe(self, site: Site) -> Recipe:
        return self._recipe


def _arguments(layer: Any, site: Site) -> dict[str, Any]:
    if isinstance(layer, nn.Linear):
        return {
            "in_features": layer.in_features,
            "out_features": layer.out_features,
            "bias": layer.bias is not None,
            "kind": "token" if site.kind == "token" else "pointwise",
        }
    arguments = {
        "in_channels": layer.in_channels,
        "out_channels": layer.out_channels,
        "kernel_size": layer.kernel_size,
        "stride": layer.stride,
        "padding": layer.padding,
        "dilation": layer.dilation,
        "groups": layer.groups,
        "bias": layer.bias is not None,
    }
    if site.transposed:
        arguments["output_padding"] = layer.output_padding
    else:
        arguments["padding_mode"] = layer.padding_mode
    return arguments


def _as(layer: nn.Module, built: nn.Module) -> nn.Module:
    """`built` with the device, dtype and training flag of `layer`."""
    weight: Any = layer.weight
    for child in built.children():  # not the layer itself: its own tensors are on the meta device still
        child.to(device=weight.device, dtype=weight.dtype)
    return built.train(layer.training)
