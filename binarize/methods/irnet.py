"""IR-Net: Qin et al., Forward and Backward Information Retention for Accurate Binary Neural Networks.

arXiv 1909.10788.
Forward: sign(x); s * sign(v) with v = (w - mean(w)) / std(w) per filter (Libra parameter binarization) and s
= 2^round(log2(mean(abs(v)))), a shift of bits.
Backward: k t (1 - tanh(t u)^2) for both signs (error decay estimator), u = x or v; through v, s constant.
During training: t = t_min (t_max / t_min)^progress, from 0.1 to 10, and k = max(1 / t, 1).
Block: conv -> BN -> hard tanh in place of the network's activation; the network's own residual connections.
Departures: the authors' script for CIFAR-10 starts t at 1e-3 (`t_min=0.001`). Until `set_progress` is called,
t is `t_min`. Linear layers on tokens have a LayerNorm. Filters of one weight, which have no deviation, stay
float; filters of equal weights take no gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from binarize.errors import ConfigError
from binarize.functional import Rule, sign
from binarize.functional.rules import Gradients, Stats
from binarize.functional.weights import filter_dims, standardized, standardized_gradient
from binarize.layers import LayerRecipe, ScheduledSign, Site, WeightState
from binarize.methods.base import ActivationSite, Method, register_method
from binarize.methods.parts import norm_for, single_weight


def decayed(grad: Tensor, u: Tensor, t: Tensor) -> Tensor:
    """The gradient g k t (1 - tanh(t u)^2), k = max(1 / t, 1)."""
    height = t * (1 / t).clamp_min(1)
    return (u * t).tanh_().square_().neg_().add_(1).mul_(height).mul_(grad)


@dataclass(frozen=True)
class IRSign(Rule):
    """Forward sign(x), gradient `decayed`. Takes t."""

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        return sign(x), ()

    def gradient(
        self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor, y: Tensor | None = None
    ) -> Gradients:
        return decayed(grad, x, params[0]), None


@dataclass(frozen=True)
class IRWeights(Rule):
    """Forward s sign(v), gradient s `decayed` through the standardization. Takes t."""

    symmetric: ClassVar[bool] = True
    scaled: ClassVar[bool] = False

    def _parts(self, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        v, deviation = standardized(w)
        return v, deviation, v.abs().mean(filter_dims(w), keepdim=True).log2().round().exp2()

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        v, _, scale = self._parts(x)
        return sign(v, scale), ()

    def gradient(
        self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor, y: Tensor | None = None
    ) -> Gradients:
        v, deviation, scale = self._parts(x)
        return standardized_gradient(decayed(grad * scale, v, params[0]), v, deviation), None


@register_method
@dataclass(frozen=True, kw_only=True)
class IRNet(Method):
    """Standardized weights with scales that are powers of 2, a surrogate that sharpens during training.

    Attributes:
        t_min: sharpness of the surrogate at the start of training.
        t_max: at its end.
    """

    name: ClassVar[str] = "irnet"
    paper: ClassVar[str] = "arXiv 1909.10788"
    year: ClassVar[int | None] = 2020

    t_min: float = 0.1
    t_max: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.t_min <= self.t_max:
            raise ConfigError(f"irnet: t_min={self.t_min}, t_max={self.t_max}: expected 0 < t_min <= t_max.")

    def sharpness(self, progress: float) -> float:
        """The t of a progress from 0 to 1."""
        return self.t_min * (self.t_max / self.t_min) ** progress

    def recipe(self, site: Site) -> LayerRecipe:
        return LayerRecipe(
            quantizer=partial(ScheduledSign, IRSign(), t=self.sharpness),
            weight_rule=IRWeights(),
            weight_state=partial(WeightState, t=self.sharpness),
            bias=site.kind == "token",
            norm=norm_for(site),
        )

    def refuses(self, site: Site) -> str | None:
        return "a filter of one weight has no deviation to divide by" if single_weight(site) else None

    def activation(self, site: ActivationSite) -> Callable[[], nn.Module] | None:
        return nn.Hardtanh
