"""From a float layer to its binary replacement; the float weights become the latent weights."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import nn
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
    StandsForLayer,
    StepSTE,
)
from binarize.layers.base import Padding
from binarize.layers.bypass import fit_of
from binarize.layers.recipe import Kind, MethodLike, Site, resolve
from binarize.methods.base import Method
from binarize.methods.forms import Form, NoFormError, pads_of
from binarize.methods.own_forward import form_of, has_own_forward
from binarize.random_state import drawing_from

_BASES: dict[type[nn.Module], type[BinaryLayer]] = {
    nn.Conv1d: BinaryConv1d,
    nn.Conv2d: BinaryConv2d,
    nn.ConvTranspose2d: BinaryConvTranspose2d,
    nn.Linear: BinaryLinear,
}
_GEOMETRY = {
    *("in_channels", "out_channels", "in_features", "out_features"),
    *(
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
        "output_padding",
        "padding_mode",
        "transposed",
    ),
}


def why_not(layer: nn.Module, form: Form | None = None) -> str | None:
    """Why `layer` cannot have a binary replacement, or None if it can.

    Args:
        layer: any module.
        form: of a layer whose class has a forward of its own, if it is known; else it is found out.
    """
    if isinstance(layer, BinaryLayer):
        return "is binary already"
    base = _base(layer)
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
    if form is None:
        try:
            own_form(layer)
        except NoFormError as error:
            return f"{type(layer).__name__} has a forward of its own that {error}"
    if isinstance(layer, nn.ConvTranspose2d) and layer.padding_mode != "zeros":
        return f"padding_mode={layer.padding_mode!r} of a transposed convolution"
    return None


def _base(layer: nn.Module) -> type[nn.Module] | None:
    return next((base for base in _BASES if isinstance(layer, base)), None)


def own_form(layer: nn.Module) -> Form | None:
    """The form of a layer whose class has a forward of its own; None for layers that compute as torch's own.

    Raises:
        NoFormError: its forward does more than a layer of another geometry.
    """
    base = _base(layer)
    overridden = (
        base is not None
        and type(layer) is not base
        and "forward" not in layer.__dict__
        and isinstance(layer._parameters.get("weight"), nn.Parameter)
        and not isinstance(layer, BinaryLayer)
        and has_own_forward(layer, base)
    )
    return form_of(layer) if overridden else None


def site_of(layer: nn.Module, *, kind: Kind | None = None, form: Form | None = None, **context: Any) -> Site:
    """The site that `layer` makes.

    Args:
        layer: float.
        kind: of a linear layer.
        form: of a layer whose class has a forward of its own, if it is known; else it is found out.
        **context: the fields of `Site` that only a graph knows.

    Raises:
        ConfigError: for a layer without a binary replacement.
    """
    reason = why_not(layer, form)
    if reason is not None:
        raise ConfigError(f"{reason}; expected nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d or nn.Linear.")
    form = form or own_form(layer)
    has_bias = layer.bias is not None and (form is None or form.bias)
    if isinstance(layer, nn.Linear):
        return Site(
            kind=kind or "token",
            in_channels=layer.in_features,
            out_channels=layer.out_features,
            has_bias=has_bias,
            **context,
        )
    conv: Any = layer
    form = form or _plain_form(conv)
    return Site(
        kind="conv",
        in_channels=conv.in_channels,
        out_channels=conv.out_channels,
        kernel=tuple(conv.kernel_size),
        stride=form.stride,
        groups=form.groups,
        transposed=conv.transposed,
        fit=_fit(conv, form),
        has_bias=has_bias,
        **context,
    )


def _plain_form(conv: Any) -> Form:
    """The form that the attributes of one of torch's own convolutions give."""
    return Form(
        stride=tuple(conv.stride),
        pads=pads_of(conv.padding, conv.kernel_size, conv.dilation),
        dilation=tuple(conv.dilation),
        output_padding=tuple(conv.output_padding) if conv.transposed else (),
        groups=conv.groups,
        mode=conv.padding_mode,
    )


def _fit(conv: Any, form: Form) -> str:
    if form.same:
        return "ceil"
    if not conv.transposed:
        return fit_of(conv.kernel_size, form.stride, form.pads, form.dilation)
    reach = zip(conv.kernel_size, form.stride, form.pads, form.dilation, form.output_padding, strict=True)
    exact = all(d * (k - 1) + 1 - low - high + extra == s for k, s, (low, high), d, extra in reach)
    return "floor" if exact else "crop"


def build(
    float_layer: nn.Module,
    method: Method,
    site: Site,
    *,
    norm: bool = True,
    bypass: bool = True,
    form: Form | None = None,
) -> nn.Module:
    """The binary replacement of a layer at `site`; the layer is left alone, its parameters are shared.

    Args:
        float_layer: a layer for which `why_not` is None.
        method: whose parts are used.
        site: see `site_of`.
        norm: False leaves the method's normalization out (a caller brings one).
        bypass: False leaves the method's bypass out.
        form: as in `site_of`.
    """
    form = form or own_form(float_layer)
    layer: Any = float_layer  # one of several classes, each checked by `why_not`
    composite = None
    if bypass:
        composite = method.compose(site, _latent(layer, form), dilation=_dilation(layer, form))
    if composite is not None:
        for name in _GEOMETRY & vars(layer).keys():  # what forwards ask their layers for
            setattr(composite, name, getattr(layer, name))
        if isinstance(composite, StandsForLayer):
            composite.float_shape, composite.float_bias = tuple(layer.weight.shape), layer.bias is not None
        return _as(layer, composite)
    binary = next(binary for base, binary in _BASES.items() if isinstance(layer, base))
    given = {} if form is None else _geometry(layer, site, form)
    built = binary.from_float(layer, method.recipe(site), site, norm=norm, bypass=bypass, **given)
    _expect_statistics(built)
    return built


def _expect_statistics(built: BinaryLayer) -> None:
    """Start a fresh BatchNorm's running variance from the value for inputs of +-1: sum(wb^2) per filter.

    Inputs of 0 and 1, equally often, give a quarter of that, and a mean of half the sum of wb. The network
    can then be evaluated before it is trained: otherwise the sums of +-1 of methods without a weight scale
    would pass unchanged, tens of times too large.
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


def _needs_explicit_pads(form: Form) -> bool:
    return form.mode != "zeros" or any(low != high for low, high in form.pads)


def _dilation(layer: Any, form: Form | None) -> tuple[int, ...]:
    return getattr(layer, "dilation", ()) if form is None else form.dilation


def _latent(layer: Any, form: Form | None) -> nn.Parameter:
    """The weight that units are cut from; of a standardizing layer, the standardized one."""
    if form is None or form.standardization is None:
        return layer.weight
    with torch.no_grad():
        return nn.Parameter(form.standardization.module(layer)(layer.weight), layer.weight.requires_grad)


def _geometry(layer: Any, site: Site, form: Form) -> dict[str, Any]:
    """Arguments of `from_float` for a layer whose forward does not follow its attributes."""
    transform = None if form.standardization is None else form.standardization.module(layer)
    if isinstance(layer, nn.Linear):
        return {"weight_transform": transform}
    explicit = _needs_explicit_pads(form)
    given = {
        "weight_transform": transform,
        "stride": form.stride,
        "dilation": form.dilation,
        "groups": form.groups,
        "padding": 0 if explicit else tuple(low for low, _ in form.pads),
    }
    if site.transposed:
        return given | {"output_padding": form.output_padding}
    padding = Padding(pads=form.pads, mode=form.mode, same=form.same) if explicit or form.same else None
    return given | {"padding_mode": "zeros", "explicit_padding": padding}


def _as(layer: nn.Module, built: nn.Module) -> nn.Module:
    """`built` with the device, dtype and training flag of `layer`."""
    weight: Any = layer.weight
    for child in built.children():  # not the layer itself: its own tensors are on the meta device still
        child.to(device=weight.device, dtype=weight.dtype)
    return built.train(layer.training)
