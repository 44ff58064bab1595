"""Which float layers have a binary replacement, and the site that each makes for a method."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from binarize.conv_sizes import reach
from binarize.errors import ConfigError
from binarize.layers import BinaryLayer
from binarize.layers.bypass import fit_of
from binarize.layers.recipe import Kind, Site
from binarize.methods.forms import Form, NoFormError, pads_of
from binarize.methods.own_forward import form_of, has_own_forward

_CLASSES: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


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
    return next((base for base in _CLASSES if isinstance(layer, base)), None)


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
    form = form or plain_form(conv)
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


def plain_form(conv: Any) -> Form:
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
    sides = zip(conv.kernel_size, form.stride, form.pads, form.dilation, form.output_padding, strict=True)
    exact = all(reach(k, d) - low - high + extra == s for k, s, (low, high), d, extra in sides)
    return "floor" if exact else "crop"
