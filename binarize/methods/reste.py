"""ReSTE: Wu et al., Estimator Meets Equilibrium Perspective: A Rectified Straight Through Estimator, 2023.

arXiv 2308.06689.
Forward: sign(x); mean(abs(w)) * sign(w), the mean being that of the whole layer.
Backward: that of sign(u) abs(u)^(1/o), which is the straight-through estimator for o = 1 and the sign for o
-> inf: (1/o) abs(u)^((1 - o) / o) for m < abs(u) <= t, the slope m^(1/o) / m for abs(u) <= m, 0 beyond t; m =
0.1, t = 1.5. Gradients flow through the weights' scale.
During training: o = 1 + (o_end - 1) (1 - cos(progress pi / 2)), from 1 to 3.
Block: conv -> BN -> hard tanh in place of the network's activation; the network's own residual connections.
Departures: until `set_progress` is called, o is 1. Linear layers on tokens have a LayerNorm.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from binarize.errors import ConfigError
from binarize.functional import Rule, sign
from binarize.functional.rules import Gradients, Stats
from binarize.layers import LayerRecipe, ScheduledSign, Site, WeightState
from binarize.methods.base import ActivationSite, Method, register_method
from binarize.methods.parts import norm_for


def rectified(grad: Tensor, u: Tensor, o: Tensor, t: float, m: float) -> Tensor:
    """The gradient g times the slope above: that of max(abs(u), m), but the secant's below m."""
    size = u.abs()
    power = size.clamp_min(m).pow((1 - o) / o) / o
    slope = torch.where(size > m, power, m ** (1 / o) / m)
    return torch.where(size <= t, slope * grad, 0)


@dataclass(frozen=True)
class ReSTESign(Rule):
    """Forward sign(x), gradient `rectified`. Takes o."""

    t: float = 1.5
    m: float = 0.1

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        return sign(x), ()

    def gradient(
        self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor, y: Tensor | None = None
    ) -> Gradients:
        return rectified(grad, x, params[0], self.t, self.m), None


@dataclass(frozen=True)
class ReSTEWeights(Rule):
    """Forward c sign(w), c = mean(abs(w)) of the layer. Takes o.

    dw = c `rectified` + sign(w) mean(g sign(w)).
    """

    t: float = 1.5
    m: float = 0.1
    symmetric: ClassVar[bool] = True

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        scale = x.abs().mean()
        return sign(x, scale), (scale,)

    def rebuild(self, x: Tensor, stats: Stats, *params: Tensor) -> Tensor:
        return sign(x, stats[0])

    def gradient(
        self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor, y: Tensor | None = None
    ) -> Gradients:
        signs = sign(x)
        through = rectified(grad * stats[0], x, params[0], self.t, self.m)
        return torch.addcmul(through, signs, (grad * signs).mean()), None


@register_method
@dataclass(frozen=True, kw_only=True)
class ReSTE(Method):
    """A surrogate of power functions that moves from straight-through towards the sign.

    Attributes:
        o_end: 1 / exponent of the surrogate at the end of training; 1 at the start.
        t: largest value with a gradient.
        m: below it, the surrogate is a straight line.
    """

    name: ClassVar[str] = "reste"
    paper: ClassVar[str] = "arXiv 2308.06689"
    year: ClassVar[int | None] = 2023

    o_end: float = 3.0
    t: float = 1.5
    m: float = 0.1

    def __post_init__(self) -> None:
        if not (self.o_end >= 1 and 0 < self.m < self.t):
            given = f"o_end={self.o_end}, t={self.t}, m={self.m}"
            raise ConfigError(f"reste: {given}: expected o_end >= 1 and 0 < m < t.")

    def order(self, progress: float) -> float:
        """The o of a progress from 0 to 1."""
        return 1 + (self.o_end - 1) * (1 - math.cos(progress * math.pi / 2))

    def recipe(self, site: Site) -> LayerRecipe:
        return LayerRecipe(
            quantizer=partial(ScheduledSign, ReSTESign(self.t, self.m), o=self.order),
            weight_rule=ReSTEWeights(self.t, self.m),
            weight_state=partial(WeightState, o=self.order),
            bias=site.kind == "token",
            norm=norm_for(site),
        )

    def activation(self, site: ActivationSite) -> Callable[[], nn.Module] | None:
        return nn.Hardtanh
