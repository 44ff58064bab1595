"""ReCU: Xu et al., Reviving the Dead Weights in Binary Neural Networks, arXiv 2103.12369.

Forward: sign(x); alpha * sign(v) with v = (w - mean) / (std / (2 sqrt(2))) per filter and alpha learnt, one
per filter.
Backward: max(0, 2 - 2 abs(u)) for activations, u = x / std(x) of the sample (in training), through that
division; 1 for the weights' sign where abs(v) <= Q, else 0: the rectified clamp, Q = -mean(abs(v)) ln(2 - 2
tau), the mean being that of the whole layer and constant. Deviations are sqrt(var + 1e-5).
During training: tau = A e^progress + B, from 0.85 to 0.99.
Block: conv -> alpha -> BN -> hard tanh in place of the network's activation; the network's own residual
connections.
Departures: alpha starts from mean(abs(w)), not from U(0, 1): a converted layer's outputs keep their size. Of
a linear layer on tokens a sample is one token. Until `set_progress` is called, tau is `tau_min`. Filters of
one weight, which have no deviation, stay float. Linear layers on tokens have a LayerNorm.
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
from binarize.functional import ApproxSign, Rule, sign
from binarize.functional.rules import Gradients, Stats, sum_to
from binarize.functional.sign import approx_gradient
from binarize.functional.weights import mean_magnitude, standardized, standardized_gradient
from binarize.layers import LayerRecipe, Quantizer, SignForm, Site, WeightState
from binarize.methods.base import ActivationSite, Method, register_method
from binarize.methods.parts import filter_shape, norm_for, single_weight

_EPS = 1e-5
_WIDTH = 2 * math.sqrt(2)


@dataclass(frozen=True)
class ReCUSign(Rule):
    """Forward sign(x), gradient of `ApproxSign` at u = x / s, s = sqrt(var(x) + 1e-5) of the sample.

    With h = g max(0, 2 - 2 abs(u)): dx = h / s - (x - mean(x)) / s^2 * sum(h u) / (n - 1).

    Attributes:
        token: a sample is one vector of the last dim, not all but the first dim.
    """

    token: bool = False

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        return sign(x), ()

    def gradient(
        self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor, y: Tensor | None = None
    ) -> Gradients:
        over = [-1] if self.token else list(range(1, x.dim()))
        n = x.shape[-1] if self.token else x[0].numel()
        s = (x.var(over, keepdim=True, correction=min(1, n - 1)) + _EPS).sqrt()
        u = x / s
        h = approx_gradient(grad, u)
        shared = (h * u).sum(over, keepdim=True) / (s * max(n - 1, 1))
        return (h / s - shared * (u - u.mean(over, keepdim=True)),)


class ReCUQuantizer(Quantizer):
    """sign(x); divides by the sample's deviation in training, which only changes the gradient.

    Args:
        token: see `ReCUSign`.
    """

    def __init__(self, token: bool = False) -> None:
        super().__init__()
        self._rules = ReCUSign(token), ApproxSign()

    @property
    def rule(self) -> Rule:  # type: ignore[override] - which one depends on the mode
        """That of training or evaluation."""
        return self._rules[0 if self.training else 1]

    @property
    def needs_negatives(self) -> bool:
        return True

    def sign_form(self) -> SignForm:
        return SignForm()

    def extra_repr(self) -> str:
        return repr(self._rules[0])  # in any mode: networks are compared by it


@dataclass(frozen=True)
class ReCUWeights(Rule):
    """Forward alpha sign(v); dv = g alpha where abs(v) <= Q, dalpha = sum g sign(v). Takes alpha and tau."""

    symmetric: ClassVar[bool] = True

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        return sign(standardized(x, _EPS)[0]).mul_(params[0]), ()

    def gradient(
        self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor, y: Tensor | None = None
    ) -> Gradients:
        alpha, tau = params
        v, deviation = standardized(x, _EPS)
        size = v.abs() * _WIDTH
        bound = -size.mean() * torch.log(2 - 2 * tau)
        through = torch.where(size <= bound, grad * alpha * _WIDTH, 0)
        galpha = sum_to(grad * sign(v), alpha.shape)
        return standardized_gradient(through, v, deviation), galpha, None


class ReCUState(WeightState):
    """`alpha`, one per filter, learnt; `tau`, which follows the progress of training."""

    def __init__(self, shape: tuple[int, ...], tau: Callable[[float], float]) -> None:
        super().__init__(tau=tau)
        self.alpha = nn.Parameter(torch.ones(shape))

    def start(self, weight: Tensor) -> None:
        with torch.no_grad():
            self.alpha.copy_(mean_magnitude(weight))

    def rule_parameters(self) -> tuple[Tensor, ...]:
        return self.alpha, *self.numbers()


@register_method
@dataclass(frozen=True, kw_only=True)
class ReCU(Method):
    """Standardized weights, a rectified clamp that revives large ones, learnt scales per filter.

    Attributes:
        tau_min: quantile of the clamp at the start of training.
        tau_max: at its end.
    """

    name: ClassVar[str] = "recu"
    paper: ClassVar[str] = "arXiv 2103.12369"
    year: ClassVar[int | None] = 2021

    tau_min: float = 0.85
    tau_max: float = 0.99

    def __post_init__(self) -> None:
        if not 0.5 < self.tau_min <= self.tau_max < 1:
            given = f"tau_min={self.tau_min}, tau_max={self.tau_max}"
            raise ConfigError(f"recu: {given}: expected 0.5 < tau_min <= tau_max < 1.")

    def tau(self, progress: float) -> float:
        """The tau of a progress from 0 to 1."""
        return self.tau_min + (self.tau_max - self.tau_min) * (math.exp(progress) - 1) / (math.e - 1)

    def recipe(self, site: Site) -> LayerRecipe:
        return LayerRecipe(
            quantizer=partial(ReCUQuantizer, site.kind == "token"),
            weight_rule=ReCUWeights(),
            weight_state=partial(ReCUState, filter_shape(site), self.tau),
            bias=site.kind == "token",
            norm=norm_for(site),
        )

    def refuses(self, site: Site) -> str | None:
        return "a filter of one weight has no deviation to divide by" if single_weight(site) else None

    def activation(self, site: ActivationSite) -> Callable[[], nn.Module] | None:
        return nn.Hardtanh
