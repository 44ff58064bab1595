"""FDA-BNN: Xu et al., Learning Frequency Domain Approximation for Binary Neural Networks, arXiv 2103.00841.

Forward: sign(x); mean(abs(w)) * sign(w) per filter.
Backward: that of the sign's Fourier series up to order n, (4 omega / pi) sum over i = 0 .. n of cos((2 i + 1)
omega u), where abs(u) <= 1, else 0; omega = 0.1. The sum is sin(2 (n + 1) omega u) / (2 sin(omega u)). Of
weights, with ReActNet's form of the scale: constant, and the gradient is not multiplied by it.
During training: n = 9 + floor(9 progress), so that more and more of the spectrum is taken.
Block: conv -> BN -> + identity bypass where channels agree -> RPReLU in place of the network's activation.
Departures: the paper's noise adaptation module, two small float layers at each quantizer that learn the error
of the series and are removed after training, is left out: while they are there, neither weights nor
activations have two values. The paper says nothing of the block; its networks for ImageNet have ReActNet's.
The gradient beyond abs(u) = 1 is cut as in the BiBench benchmark, and its weights' factor mean(abs(w)) is
left out. Until `set_progress` is called, n is `n_min`. Linear layers on tokens have a LayerNorm.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from binarize.errors import ConfigError
from binarize.functional import Rule, sign
from binarize.functional.rules import Gradients, Stats
from binarize.functional.weights import mean_magnitude
from binarize.layers import LayerRecipe, ScheduledSign, Site, WeightState
from binarize.methods.base import ActivationSite, Method, register_method
from binarize.methods.parts import norm_for, rprelu


def series(grad: Tensor, u: Tensor, n: Tensor, omega: float) -> Tensor:
    """The gradient g times the derivative of the series of order n where abs(u) <= 1, else 0."""
    angle = u * omega
    terms = n + 1
    # the ratio is `terms` at 0; next to it the quotient of two small numbers would lose its digits
    near = angle.abs() < 1e-4
    safe = torch.where(near, 1.0, angle)
    total = torch.where(near, terms, (2 * terms * safe).sin() / (2 * safe.sin()))
    return torch.where(u.abs() <= 1, total * (4 * omega / math.pi) * grad, 0)


@dataclass(frozen=True)
class FDASign(Rule):
    """Forward sign(x), gradient `series`. Takes n."""

    omega: float = 0.1

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        return sign(x), ()

    def gradient(
        self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor, y: Tensor | None = None
    ) -> Gradients:
        return series(grad, x, params[0], self.omega), None


@dataclass(frozen=True)
class FDAWeights(Rule):
    """Forward mean(abs(w)) sign(w) per filter, gradient `series`. Takes n."""

    omega: float = 0.1
    symmetric: ClassVar[bool] = True

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        return sign(x, mean_magnitude(x)), ()

    def gradient(
        self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor, y: Tensor | None = None
    ) -> Gradients:
        return series(grad, x, params[0], self.omega), None


@register_method
@dataclass(frozen=True, kw_only=True)
class FDA(Method):
    """A surrogate from the sign's Fourier series, of an order that grows during training.

    Attributes:
        residual: `drop` removes the outer add around branches of bypassed layers.
        omega: fundamental frequency of the series.
        n_min: order of the series at the start of training.
        n_max: at its end.
    """

    name: ClassVar[str] = "fda"
    paper: ClassVar[str] = "arXiv 2103.00841"
    year: ClassVar[int | None] = 2021

    residual: Literal["drop", "keep"] = "drop"
    omega: float = 0.1
    n_min: int = 9
    n_max: int = 18

    def __post_init__(self) -> None:
        if not (0 < self.omega < math.pi and 0 <= self.n_min <= self.n_max):
            given = f"omega={self.omega}, n_min={self.n_min}, n_max={self.n_max}"
            raise ConfigError(f"fda: {given}: expected 0 < omega < pi and 0 <= n_min <= n_max.")

    def order(self, progress: float) -> float:
        """The n of a progress from 0 to 1."""
        return self.n_min + math.floor((self.n_max - self.n_min) * progress)

    def recipe(self, site: Site) -> LayerRecipe:
        return LayerRecipe(
            quantizer=partial(ScheduledSign, FDASign(self.omega), n=self.order),
            weight_rule=FDAWeights(self.omega),
            weight_state=partial(WeightState, n=self.order),
            bias=site.kind == "token",
            norm=norm_for(site),
            bypass=site.in_channels == site.out_channels,
        )

    def activation(self, site: ActivationSite) -> Callable[[], nn.Module] | None:
        return rprelu(site)

    @property
    def drops_residual(self) -> bool:
        return self.residual == "drop"
