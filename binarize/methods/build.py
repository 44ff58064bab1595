"""From a float layer to its binary replacement; the float weights become the latent weights."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import nn

from binarize.errors import ConfigError
from binarize.layers import (
    BinaryConv1d,
    BinaryConv2d,
    BinaryConvTranspose2d,
    BinaryLayer,
    BinaryLinear,
    Quantizer,
    SignForm,
    StandsForLayer,
    StepSTE,
)
from binarize.layers.base import Padding
from binarize.layers.recipe import Kind, MethodLike, Site, recipe_of, resolve, with_bypass_option
from binarize.methods.base import Method
from binarize.methods.bypasses import compose
from binarize.methods.float_layer import own_form, plain_form, site_of
from binarize.methods.forms import Form
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
    geometry = _outside_site(layer, form)
    composite = compose(method, site, _latent(layer, form), norm=norm, bypass=bypass, **geometry)
    if composite is not None:
        for name in _GEOMETRY & vars(layer).keys():  # what forwards ask their layers for
            setattr(composite, name, getattr(layer, name))
        for part in composite.modules():
            if isinstance(part, BinaryLayer):
                _expect_statistics(part)
        if isinstance(composite, StandsForLayer):
            composite.float_shape, composite.float_bias = tuple(layer.weight.shape), layer.bias is not None
        return _as(layer, composite)
    binary = next(binary for base, binary in _BASES.items() if isinstance(layer, base))
    given = {} if form is None else _geometry(layer, site, form)
    built = binary.from_float(layer, recipe_of(method, site), site, norm=norm, bypass=bypass, **given)
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
    if _is_unsigned(built.quantizer):
        weight = weight / 2  # the deviation of inputs of 0 and 1, whose mean moves that of the output
    if isinstance(built, nn.ConvTranspose2d):  # a stride of s lets 1 in s^2 of the kernel meet each output
        norm.running_var.fill_(float(weight.square().sum()) / built.out_channels / math.prod(built.stride))
        return
    power = torch.linalg.vector_norm(weight, 2, list(range(1, weight.dim()))).square_()
    norm.running_var.copy_(torch.where(power > 0, power, torch.ones_like(power)))


def _is_unsigned(quantizer: nn.Module) -> bool:
    """Whether all activations are 0 or a number above 0."""
    if isinstance(quantizer, StepSTE):
        return not quantizer.rule.ranges
    form = quantizer.sign_form() if isinstance(quantizer, Quantizer) else ""
    return isinstance(form, SignForm) and form.unsigned


def binary_layer(
    layer: nn.Module,
    method: str | MethodLike = "bidense",
    *,
    norm: bool = True,
    bypass: bool | str = True,
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
        bypass: False leaves the method's bypass out; a text is the method's option of that name.
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
    bypass, options = with_bypass_option(bypass, options)
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


def _outside_site(layer: Any, form: Form | None) -> dict[str, Any]:
    """What `Method.compose` needs to know of a layer beside its site."""
    if isinstance(layer, nn.Linear):
        return {"dilation": (), "output_padding": (), "padding": Padding()}
    form = form or plain_form(layer)
    padding = Padding(pads=form.pads, mode=form.mode, same=form.same)
    return {"dilation": form.dilation, "output_padding": form.output_padding, "padding": padding}


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
