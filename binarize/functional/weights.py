"""Rules that turn latent weights into binary weights.

Weights come with the output filter in dim 0: (Cout, Cin/groups, ...) or (Cout, Cin). `per filter`
means one value per output filter, over all other dims.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from binarize.functional.activations import SteSign
from binarize.functional.rules import Gradients, Rule, Stats
from binarize.functional.sign import clip_gradient, sign

__all__ = [
    "AdaBinWeights",
    "CentredScaledSign",
    "ScaledSign",
    "SteSign",
    "filter_dims",
    "mean_magnitude",
    "standardized",
    "standardized_gradient",
]


def filter_dims(w: Tensor) -> list[int]:
    """All dims but that of the output filters."""
    return list(range(1, w.dim()))


def standardized(w: Tensor, eps: float = 0.0) -> tuple[Tensor, Tensor]:
    """(w - mean) / s per filter, and s = sqrt(var + eps) with the unbiased variance, (Cout, 1, ...).

    Without eps, s of a filter of equal weights is infinite: it becomes 0 and takes no gradient.
    """
    mean = w.mean(filter_dims(w), keepdim=True)
    deviation = (w.var(filter_dims(w), keepdim=True) + eps).sqrt()
    # what is left of equal weights is the rounding of their mean: its direction says nothing
    equal = deviation <= 4 * torch.finfo(w.dtype).eps * mean.abs()
    deviation = deviation.masked_fill(equal, math.inf)
    # not (w - mean) / s, which has -0.0 in it then
    return torch.where(equal, 0, w - mean) / deviation, deviation


def standardized_gradient(grad: Tensor, v: Tensor, deviation: Tensor) -> Tensor:
    """The gradient of w from that of `standardized`, n being the size of a filter.

    dw = (g - mean(g) - v sum(g v) / (n - 1)) / s
    """
    dims, n = filter_dims(v), v[0].numel()
    along = (grad * v).sum(dims, keepdim=True) / max(n - 1, 1)
    return (grad - grad.mean(dims, keepdim=True) - v * along) / deviation


def mean_magnitude(w: Tensor) -> Tensor:
    """mean(abs(w)) per filter, (Cout, 1, ...)."""
    return w.abs().mean(filter_dims(w), keepdim=True)


@dataclass(frozen=True)
class ScaledSign(Rule):
    """Forward mean(abs(w)) * sign(w) per filter, the mean detached; gradient of clamp(w, -1, 1).

    `wscale` of ReActNet and BiDense (XNOR-Net's scale, arXiv 1603.05279, Eq. 6).
    """

    symmetric: ClassVar[bool] = True

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        magnitude = mean_magnitude(x)
        return sign(x, magnitude), (magnitude,)

    def rebuild(self, x: Tensor, stats: Stats, *params: Tensor) -> Tensor:
        return sign(x, stats[0])

    def gradient(
        self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor, y: Tensor | None = None
    ) -> Gradients:
        return (clip_gradient(grad, x),)


@dataclass(frozen=True)
class CentredScaledSign(Rule):
    """Forward mean(abs(w)) * sign(w - mean(w)) per row; gradient of clamp(w - mean(w), -1, 1).

    The scale is that of the uncentred row and detached; the gradient flows through the centring
    (BiDense's linear layers, after BiT, arXiv 2205.13016).
    """

    symmetric: ClassVar[bool] = True

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        return sign(self._centred(x), mean_magnitude(x)), ()

    def gradient(
        self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor, y: Tensor | None = None
    ) -> Gradients:
        through = clip_gradient(grad, self._centred(x))
        return (through - through.mean(filter_dims(x), keepdim=True),)

    def _centred(self, x: Tensor) -> Tensor:
        return x - x.mean(filter_dims(x), keepdim=True)


@dataclass(frozen=True)
class AdaBinWeights(Rule):
    """Forward alpha * sign(u) + beta per filter with u = (w - beta) / alpha (AdaBin, Eqs. 5-7).

    beta = mean(w), alpha = sqrt(sum((w - beta)^2) / n), nothing detached; the sign's gradient is
    h = k t (1 - tanh(t u)^2) (IR-Net's error decay estimator). With sums per filter:

        dw = g h + (w - beta) / (n alpha) * sum g (sign(u) - h u) + mean(g (1 - h))

    Attributes:
        k: height of the surrogate.
        t: sharpness of the surrogate.
        groups: divides the input channels; matters to `authors_filter_size` only.
        authors_filter_size: n counts kernel positions times *all* input channels, as the authors' code
            does, instead of the true size of a filter; differs in grouped convolutions only.
    """

    k: float = 10.0
    t: float = 0.1
    groups: int = 1
    authors_filter_size: bool = False

    def _parts(self, w: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
        n = w[0].numel() * (self.groups if self.authors_filter_size else 1)
        beta = w.mean(filter_dims(w), keepdim=True)
        centred = w - beta
        alpha = torch.linalg.vector_norm(centred, 2, filter_dims(w), keepdim=True) / n**0.5
        # A filter of equal weights (every 1x1 depthwise filter, say) has alpha = 0 and would divide
        # by it; the smallest normal number keeps u = 0 there and changes no other filter.
        return centred, alpha.clamp_min(torch.finfo(w.dtype).tiny), beta, n

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        centred, alpha, beta, _ = self._parts(x)
        return sign(centred, alpha).add_(beta), ()

    def gradient(
        self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor, y: Tensor | None = None
    ) -> Gradients:
        centred, alpha, _, n = self._parts(x)
        u = centred / alpha
        through = (u * self.t).tanh_().square_().neg_().add_(1).mul_(self.k * self.t).mul_(grad)  # g h
        dims = filter_dims(x)
        galpha = (grad * sign(u) - through * u).sum(dims, keepdim=True)
        gbeta = (grad - through).mean(dims, keepdim=True)
        return (through + u * (galpha / n) + gbeta,)
