"""DoReFa-Net: Zhou et al., Training Low Bitwidth Convolutional Neural Networks with Low Bitwidth Gradients.

arXiv 1606.06160, with weights and activations of one bit.
Forward: 1 where x >= 1/2, else 0 (the rounded clamp(x, 0, 1)); E * sign(w), E = mean(abs(w)) of the layer.
Backward: 1 for 0 <= x <= 1, else 0; 1 for weights, E constant.
Block: conv -> BN -> the network's own activation and residual connections.
Departures: gradients are not quantized. Linear layers on tokens have a LayerNorm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from binarize.functional import Rule, sign
from binarize.layers import LayerRecipe, Quantizer, SignForm, Site
from binarize.methods import Method


def straight_through(value: Tensor, surrogate: Tensor) -> Tensor:
    """The forward value of one, the gradient of the other."""
    return value.detach() + surrogate - surrogate.detach()


@dataclass(frozen=True)
class DoReFaWeights(Rule):
    """Forward E sign(w), E = mean(abs(w)) of the layer; gradient 1."""

    symmetric: ClassVar[bool] = True

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Rule`; what is expensive to compute again goes into the second value."""
        return sign(x, x.abs().mean()), ()

    def gradient(
        self, grad: Tensor, x: Tensor, stats: tuple[Tensor, ...], *params: Tensor, y: Tensor | None = None
    ) -> tuple[Tensor | None, ...]:
        """See `Rule`."""
        return (grad,)

    def formula(self, x: Tensor, *params: Tensor) -> Tensor:
        """What `check_method` holds the two above against."""
        return straight_through(torch.where(x >= 0, 1.0, -1.0).to(x.dtype) * x.abs().mean(), x)


@dataclass(frozen=True)
class DoReFaBits(Rule):
    """Forward 1 where x >= 1/2, else 0; gradient 1 for 0 <= x <= 1, else 0."""

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Rule`."""
        return (x >= 0.5).to(x.dtype), ()

    def gradient(
        self, grad: Tensor, x: Tensor, stats: tuple[Tensor, ...], *params: Tensor, y: Tensor | None = None
    ) -> tuple[Tensor | None, ...]:
        """See `Rule`."""
        return (torch.where((x >= 0) & (x <= 1), grad, 0),)

    def formula(self, x: Tensor, *params: Tensor) -> Tensor:
        """See `DoReFaWeights`."""
        return straight_through((x >= 0.5).to(x.dtype), x.clamp(0, 1))


class DoReFaQuantizer(Quantizer):
    """Activations in {0, 1}."""

    values = "{0, 1}"

    def __init__(self) -> None:
        super().__init__()
        self.rule = DoReFaBits()

    def sign_form(self) -> SignForm:
        """Where the sign of x - 1/2 is +1: packed layers, and so the kernels, compute it from this."""
        return SignForm(shift=torch.tensor(-0.5), unsigned=True)


@dataclass(frozen=True, kw_only=True)
class DoReFa(Method):
    """Activations in {0, 1} by rounding, signs of weights with one scale per layer."""

    name: ClassVar[str] = "dorefa"
    paper: ClassVar[str] = "arXiv 1606.06160"
    year: ClassVar[int | None] = 2016

    def recipe(self, site: Site) -> LayerRecipe:
        """What a layer consists of."""
        return LayerRecipe(
            quantizer=DoReFaQuantizer,
            weight_rule=DoReFaWeights(),
            bias=site.kind == "token",
            norm="layer" if site.kind == "token" else "batch",
        )
