"""What a layer computes with its weight, independent of its class and its attributes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from binarize.conv_sizes import Pads, same_pads, static_same_pads
from binarize.functional import Geometry
from binarize.methods.standardization import Standardization

DENSE = {"conv1d", "conv2d", "conv_transpose2d", "linear"}
"""Functions that apply a weight, by name."""
_ORDER = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED_ORDER = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_MODES = ("constant", "reflect", "replicate", "circular")


@dataclass(frozen=True, kw_only=True)
class Form:
    """The operation of a layer with its weight, independent of its attributes.

    Attributes:
        stride: one number per spatial dim; empty for linear layers, as are the next three.
        pads: low and high side per spatial dim.
        dilation: likewise.
        output_padding: of a transposed convolution, else empty.
        groups: of the convolution.
        mode: how padded positions are filled: `zeros`, `reflect`, `replicate`, `circular`.
        same: pads by the size of the input, as TensorFlow's "SAME"; `pads` are 0 then.
        bias: the operation adds the layer's bias.
        standardization: of the weight, or None.
    """

    stride: tuple[int, ...] = ()
    pads: Pads = ()
    dilation: tuple[int, ...] = ()
    output_padding: tuple[int, ...] = ()
    groups: int = 1
    mode: str = "zeros"
    same: bool = False
    bias: bool = True
    standardization: Standardization | None = None


class NoFormError(Exception):
    """Why a layer's forward has no form."""


def arguments_of(name: str, args: Any, kwargs: Any) -> dict[str, Any]:
    """The arguments of a call of one of `DENSE`, by name."""
    order = _TRANSPOSED_ORDER if name.startswith("conv_transpose") else _ORDER
    return {**dict(zip(order, args, strict=False)), **kwargs}


def form_of_call(given: dict[str, Any], layer: Any) -> tuple[Form, Pads]:
    """The form of a call of one of `DENSE` without its pads, and the pads.

    Args:
        given: its arguments and its name.
        layer: whose weight is applied.
    """
    spatial = layer.weight.dim() - 2
    bias = given.get("bias") is not None
    if given["name"] == "linear":
        return Form(bias=bias), ()
    dilation = _per_dim(given.get("dilation", 1), spatial)
    transposed = given["name"].startswith("conv_transpose")
    form = Form(
        stride=_per_dim(given.get("stride", 1), spatial),
        dilation=dilation,
        output_padding=_per_dim(given.get("output_padding", 0), spatial) if transposed else (),
        groups=int(given.get("groups", 1)),
        bias=bias,
    )
    return form, pads_of(given.get("padding", 0), layer.weight.shape[2:], dilation)


def padded(steps: list[tuple[list[int], str]], own: Pads, layer: nn.Module) -> tuple[Pads, str]:
    """All padding in front of a layer as one: low and high side per spatial dim, and its mode.

    Args:
        steps: amounts, in the order of F.pad, and mode of each.
        own: what the layer's operation itself pads, with zeros.
        layer: a convolution or linear layer.

    Raises:
        NoFormError: together they are not one padding of spatial positions.
    """
    total = [list(pair) for pair in own]
    modes = {mode for amounts, mode in steps if any(amounts)}
    if any(any(pair) for pair in own):
        modes.add("constant")
    if len(modes) > 1 or not modes <= set(_MODES):
        raise NoFormError("pads in several modes")
    mode = next(iter(modes), "constant")
    if mode != "constant" and len([amounts for amounts, _ in steps if any(amounts)]) > 1:
        raise NoFormError("pads several times")
    for amounts, _ in steps:
        if not any(amounts):
            continue
        if len(amounts) > 2 * len(own) or min(amounts) < 0 or not isinstance(layer, (nn.Conv1d, nn.Conv2d)):
            raise NoFormError("crops its input, or pads what is not a position under its kernel")
        for axis in range(len(amounts) // 2):
            total[-1 - axis][0] += amounts[2 * axis]
            total[-1 - axis][1] += amounts[2 * axis + 1]
    return tuple((low, high) for low, high in total), "zeros" if mode == "constant" else mode


def _per_dim(value: Any, spatial: int) -> tuple[int, ...]:
    numbers = tuple(int(n) for n in value) if isinstance(value, (tuple, list)) else (int(value),)
    return numbers * spatial if len(numbers) == 1 else numbers


def pads_of(padding: Any, kernel: Any, dilation: tuple[int, ...]) -> Pads:
    """The `padding` argument of a convolution as low and high side per spatial dim."""
    if padding == "valid":
        return ((0, 0),) * len(dilation)
    if padding == "same":
        return static_same_pads(kernel, dilation)
    return tuple((p, p) for p in _per_dim(padding, len(dilation)))


def computed(layer: Any, form: Form, x: Tensor) -> Tensor:
    """The result of a layer of that form."""
    weight, bias = layer.weight.detach(), layer.bias if form.bias else None
    if form.standardization is not None:
        weight = form.standardization.module(layer)(weight).detach()
    if not form.stride:
        return F.linear(x, weight, bias)
    transposed = isinstance(layer, nn.ConvTranspose2d)
    pads = form.pads
    if form.same:
        pads = same_pads(x.shape[2:], weight.shape[2:], form.stride, form.dilation)
    padding = tuple(low for low, _ in pads) if transposed else (0,) * len(pads)
    if not transposed:
        mode = "constant" if form.mode == "zeros" else form.mode
        x = F.pad(x, [side for pair in reversed(pads) for side in pair], mode=mode)
    geometry = Geometry(form.stride, padding, form.dilation, form.groups, transposed, form.output_padding)
    return geometry.convolve(x, weight, bias)
