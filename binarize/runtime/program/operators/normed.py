"""A layer norm over the last dim, with bypass, activations and sum: one step of the library."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from binarize.native import structs
from binarize.native.epilogue import Activation
from binarize.runtime import ops
from binarize.runtime.ops.arguments import activation_of_arguments
from binarize.runtime.program.lowering import Lowering
from binarize.runtime.program.operators.registry import lowers
from binarize.runtime.program.operators.views import dense


@lowers(ops.normed)
def normed(
    lowering: Lowering,
    node: fx.Node,
    y: Tensor,
    x: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    inner: Any,
    activation: Any,
    eps: float,
    **given: Any,
) -> Any:
    """One step; torch does it where an operand's rows are not evenly spaced."""
    residual: Tensor | None = given.get("residual")
    out = lowering.rows(tuple(y.shape))
    maps = {"x": y, "out": out, "bypass": x, "residual": residual}
    channels = y.shape[-1]
    images = y.shape[0] if y.dim() > 2 or given.get("with_sums") else 1
    tokens = {name: _tokens(t, images) for name, t in maps.items() if t is not None}
    if y.dtype != torch.float32 or not y.numel() or any(t is None for t in tokens.values()):
        return NotImplemented
    vectors = [t for t in (weight, bias) if t is not None]
    if not lowering.is_constant(inner, activation) or any(t.dtype != torch.float32 for t in vectors):
        return NotImplemented
    width = y.numel() // channels // images
    step = structs.LayerNormStep(images=images, height=1, width=width, channels=channels, eps=eps)
    for name, t in tokens.items():
        if t is not None:
            part = getattr(step, name)
            part.image, part.pixel, part.channel = t.stride(0), t.stride(1), 1
            lowering.point(part, "data", t)
    if x is not None:
        step.bypass_channels = x.shape[-1]
    for name, vector in (("weight", weight), ("bias", bias)):
        if vector is not None:
            lowering.point(step, name, dense(lowering, vector))
    step.first = _activation(lowering, activation_of_arguments(inner), channels)
    second = activation_of_arguments(activation, given.get("bounds", ()))
    step.second = _activation(lowering, second, channels)
    sums = lowering.empty((images, channels) if given.get("with_sums") else (0,))
    if given.get("with_sums"):
        lowering.point(step, "sums", sums)
    lowering.native("layer_norm", step)
    return out, sums


def _tokens(x: Tensor, images: int) -> Tensor | None:
    """(images, positions, channels) as a view; None where that does not go."""
    if x.stride(-1) != 1 and x.shape[-1] > 1:
        return None
    try:
        return x.view(images, -1, x.shape[-1])
    except RuntimeError:
        return None


def _activation(lowering: Lowering, activation: Activation | None, channels: int) -> structs.Activation:
    if activation is None:
        return structs.Activation()
    checked = activation.checked(channels)
    lowering.hold(checked)
    return checked.struct()
