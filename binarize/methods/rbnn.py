"""RBNN: Lin et al., Rotated Binary Neural Network, arXiv 2009.13055.

Forward: sign(x); alpha * sign(z), z = v + abs(sin(b)) (R1^T V R2 - v), where v = (w - mean(w)) / std(w) per
filter, V is v as a matrix (n1, n2) with n1 n2 weights, as square as they allow, and alpha and b are learnt,
one per filter.
Backward: max(0, k (sqrt(2) t - t^2 abs(u))) for both signs (training-aware approximation); of activations k =
1 and t is at least 1; through z, b and v.
During training: t = t_min (t_max / t_min)^progress, from 0.01 to 10, k = max(1 / t, 1). The rotations R1 and
R2 (orthogonal, shared by the filters of a layer) follow the weights `updates` times: three times in turn B =
sign(R1^T V R2), then the R1 and the R2 that bring the rotated filters closest to B (orthogonal Procrustes
problems, by an SVD).
Block: conv -> BN -> hard tanh in place of the network's activation; the network's own residual connections.
Departures: the authors' published code standardizes each sample in front of the activations' sign, which the
paper does not, and keeps gradients from the rotated weights; here they flow through the rotation, a part of
the forward. Rotations start from the identity (theirs are random), so that a converted network starts with
the signs of its centred weights, and b from pi / 4: from their pi / 2, where the sine is flat, it could not
leave. Their code updates the rotations in the first step of each epoch; here at most 100 times in all
(`updates`). Until `set_progress` is called, t is `t_min`. Filters of one weight, which have no deviation,
stay float; filters of equal weights take no gradient. Linear layers on tokens have a LayerNorm.
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
from binarize.functional.rules import Gradients, Stats, sum_to
from binarize.functional.weights import mean_magnitude, standardized, standardized_gradient
from binarize.layers import LayerRecipe, ScheduledSign, Site, WeightState
from binarize.layers.training_state import as_they_are
from binarize.methods.base import ActivationSite, Method, register_method
from binarize.methods.parts import filter_shape, norm_for, single_weight


def approximated(grad: Tensor, u: Tensor, t: Tensor, k: Tensor | float) -> Tensor:
    """The gradient g max(0, k (sqrt(2) t - t^2 abs(u)))."""
    return (k * (math.sqrt(2) * t - t * t * u.abs())).clamp_min(0) * grad


@dataclass(frozen=True)
class RBNNSign(Rule):
    """Forward sign(x), gradient `approximated` with k = 1 and t of at least 1. Takes t."""

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        return sign(x), ()

    def gradient(
        self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor, y: Tensor | None = None
    ) -> Gradients:
        return approximated(grad, x, params[0].clamp_min(1), 1.0), None


@dataclass(frozen=True)
class RBNNWeights(Rule):
    """Forward alpha sign(z). Takes alpha, b, R1 (n1, n1), R2 (n2, n2) and t.

    With h = g alpha `approximated` at z and a = abs(sin(b)): dv = (1 - a) h + a R1 H R2^T,
    db = sum h (R1^T V R2 - v) sign(sin(b)) cos(b), dalpha = sum g sign(z).
    """

    symmetric: ClassVar[bool] = True

    def _parts(self, w: Tensor, *params: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        v, deviation = standardized(w)
        _, angle, left, right, _ = params
        turned = (left.T @ v.reshape(len(v), len(left), len(right)) @ right).view_as(v) - v
        return v, deviation, turned, torch.addcmul(v, angle.sin().abs(), turned)

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        return sign(self._parts(x, *params)[-1]).mul_(params[0]), ()

    def gradient(
        self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor, y: Tensor | None = None
    ) -> Gradients:
        alpha, angle, left, right, t = params
        v, deviation, turned, z = self._parts(x, *params)
        h = approximated(grad * alpha, z, t, (1 / t).clamp_min(1))
        share = angle.sin().abs()
        back = (left @ h.reshape(len(h), len(left), len(right)) @ right.T).view_as(h)
        gangle = sum_to(h * turned, angle.shape) * angle.sin().sign() * angle.cos()
        gw = standardized_gradient(torch.lerp(h, back, share), v, deviation)
        return gw, sum_to(grad * sign(z), alpha.shape), gangle, None, None, None


class Rotations(WeightState):
    """`alpha` and `angle` per filter, learnt; `R1`, `R2` and `t`, which follow the progress of training.

    Args:
        site: of the layer.
        t: schedule.
        updates: of the rotations, from the start to the end of training.
    """

    R1: Tensor
    R2: Tensor
    updated: Tensor

    def __init__(self, site: Site, t: Callable[[float], float], updates: int) -> None:
        super().__init__(t=t)
        self._updates = updates
        self.alpha = nn.Parameter(torch.ones(filter_shape(site)))
        self.angle = nn.Parameter(torch.full(filter_shape(site), math.pi / 4))
        n = site.in_channels // site.groups * math.prod(site.kernel)
        n1 = next(d for d in range(math.isqrt(n), 0, -1) if n % d == 0)
        self.register_buffer("R1", torch.eye(n1))
        self.register_buffer("R2", torch.eye(n // n1))
        self.register_buffer("updated", torch.tensor(-1))  # number of the last update

    def start(self, weight: Tensor) -> None:
        with torch.no_grad():
            self.alpha.copy_(mean_magnitude(weight))

    def rule_parameters(self) -> tuple[Tensor, ...]:
        return self.alpha, self.angle, *as_they_are(self.R1, self.R2), *self.numbers()

    def follow(self, progress: float, weight: Callable[[], Tensor]) -> None:
        self.set(progress)
        due = min(math.floor(progress * self._updates), self._updates - 1)
        if due == int(self.updated):
            return
        with torch.no_grad():
            self._rotate(standardized(weight().detach())[0])
            self.updated.fill_(due)

    def _rotate(self, v: Tensor) -> None:
        # float32 at least: no SVD takes less
        kind = torch.promote_types(v.dtype, torch.float32)
        left, right = self.R1.to(kind), self.R2.to(kind)
        filters = v.reshape(len(v), len(left), len(right)).to(kind)
        for _ in range(3):
            signs = sign(left.T @ filters @ right)
            left = _nearest(torch.einsum("oab,obc->ac", filters, (signs @ right.T).mT))
            right = _nearest(torch.einsum("oab,oac->bc", filters, left @ signs))
        self.R1.copy_(left)
        self.R2.copy_(right)


def _nearest(matrix: Tensor) -> Tensor:
    """The orthogonal matrix R of the largest trace of R^T M, for a square M."""
    u, _, v = torch.linalg.svd(matrix)
    return u @ v


@register_method
@dataclass(frozen=True, kw_only=True)
class RBNN(Method):
    """Weights rotated towards their signs by learnt amounts, a surrogate that sharpens during training.

    Attributes:
        t_min: sharpness of the surrogate at the start of training.
        t_max: at its end.
        updates: how often the rotations follow the weights during training.
    """

    name: ClassVar[str] = "rbnn"
    paper: ClassVar[str] = "arXiv 2009.13055"
    year: ClassVar[int | None] = 2020

    t_min: float = 0.01
    t_max: float = 10.0
    updates: int = 100

    def __post_init__(self) -> None:
        if not (0 < self.t_min <= self.t_max and self.updates >= 1):
            given = f"t_min={self.t_min}, t_max={self.t_max}, updates={self.updates}"
            raise ConfigError(f"rbnn: {given}: expected 0 < t_min <= t_max and at least one update.")

    def sharpness(self, progress: float) -> float:
        """The t of a progress from 0 to 1."""
        return self.t_min * (self.t_max / self.t_min) ** progress

    def recipe(self, site: Site) -> LayerRecipe:
        return LayerRecipe(
            quantizer=partial(ScheduledSign, RBNNSign(), t=self.sharpness),
            weight_rule=RBNNWeights(),
            weight_state=partial(Rotations, site, self.sharpness, self.updates),
            bias=site.kind == "token",
            norm=norm_for(site),
        )

    def refuses(self, site: Site) -> str | None:
        return "a filter of one weight has no deviation to divide by" if single_weight(site) else None

    def activation(self, site: ActivationSite) -> Callable[[], nn.Module] | None:
        return nn.Hardtanh
