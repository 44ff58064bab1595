"""The distribution-adaptive binarizer (DAB) of BiDense (arXiv 2411.10346, Section 3.2) and its ablations.

With the mean over all positions of a sample's channel, both statistics detached:

    xs = x - (k * mean(x) + b)                      Eq. 5, 8
    M  = mean(abs(xs))                              Eq. 7
    y  = exp(a * (M - 1)) * sign(xs)                Eq. 9, 10

With A = exp(a (M - 1)) and G = g A max(0, 2 - 2 abs(xs)):
dx = G, db = -sum G, dk = -sum G mean(x), da = sum g A (M - 1) sign(xs).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from binarize.functional.rules import Gradients, Rule, Stats, sum_to
from binarize.functional.sign import approx_gradient, shift, sign, sign_

Threshold = Literal["adaptive", "b", "mean", "none"]
Scale = Literal["adaptive", "mad", "learned", "none"]
Granularity = Literal["channel", "layer"]


@dataclass(frozen=True)
class DabRule(Rule):
    """The DAB on (N, C, ...) or, with `dim=-1`, on (N, ..., C).

    Attributes:
        threshold: `adaptive` k mean(x) + b; `b`; `mean`: k mean(x); `none`: 0 (Table 4, rows 3-5).
        scale: `adaptive` exp(a (M - 1)); `mad`: M; `learned`: exp(a), positive whatever a is;
            `none`: 1 (Table 4, rows 6-8).
        granularity: M and a per channel, or one of each per layer (M per sample in both). Thresholds
            are per channel in both: they do not stand inside the sum over input channels.
        dim: the channel dimension, 1 or -1.
    """

    threshold: Threshold = "adaptive"
    scale: Scale = "adaptive"
    granularity: Granularity = "channel"
    dim: int = 1

    def names(self) -> tuple[str, ...]:
        """The learnable parameters that this variant has, in the order in which they are passed."""
        wanted = []
        if self.scale in ("adaptive", "learned"):
            wanted.append("a")
        if self.threshold in ("adaptive", "mean"):
            wanted.append("k")
        if self.threshold in ("adaptive", "b"):
            wanted.append("b")
        return tuple(wanted)

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        given = dict(zip(self.names(), params, strict=True))
        stats: list[Tensor] = []
        if "k" in given:
            stats.append(x.mean(self._positions(x), keepdim=True))
        xs = self._shift(x, tuple(stats), given)
        if self.scale in ("adaptive", "mad"):
            stats.append(xs.abs().mean(self._scale_dims(x), keepdim=True))
        return self._signs(xs, x, tuple(stats), given), tuple(stats)

    def rebuild(self, x: Tensor, stats: Stats, *params: Tensor) -> Tensor:
        given = dict(zip(self.names(), params, strict=True))
        return self._signs(self._shift(x, stats, given), x, stats, given)

    def gradient(
        self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor, y: Tensor | None = None
    ) -> Gradients:
        given = dict(zip(self.names(), params, strict=True))
        magnitude = self._magnitude(stats, given)
        xs = self._shift(x, stats, given)
        grads: dict[str, Tensor] = {}
        if "a" in given and magnitude is not None:
            # y = A sign(xs), and both statistics are constant over positions: those are summed first.
            quantized = y if y is not None else sign(xs, magnitude, positive_zeros=xs is not x)
            through = (grad * quantized).sum(self._positions(x), keepdim=True)
            grads["a"] = sum_to(
                through * (stats[-1] - 1) if self.scale == "adaptive" else through, given["a"].shape
            )
        gx = approx_gradient(grad, xs, magnitude, owned=xs is not x)
        if "k" in given or "b" in given:
            total = gx.sum(self._positions(x), keepdim=True)
            if "k" in given:
                grads["k"] = -sum_to(total * stats[0], given["k"].shape)
            if "b" in given:
                grads["b"] = -sum_to(total, given["b"].shape)
        return gx, *(grads[name] for name in self.names())

    def _positions(self, x: Tensor) -> list[int]:
        return list(range(2, x.dim())) if self.dim == 1 else list(range(1, x.dim() - 1))

    def _scale_dims(self, x: Tensor) -> list[int]:
        return self._positions(x) if self.granularity == "channel" else list(range(1, x.dim()))

    def _shift(self, x: Tensor, stats: Stats, given: dict[str, Tensor]) -> Tensor:
        if "k" in given:
            beta = given["k"] * stats[0]
            return shift(x, beta + given["b"] if "b" in given else beta)
        return shift(x, given["b"]) if "b" in given else x

    def _signs(self, xs: Tensor, x: Tensor, stats: Stats, given: dict[str, Tensor]) -> Tensor:
        magnitude = self._magnitude(stats, given)
        if xs is x:
            return sign(x, magnitude)
        return sign_(xs, xs.new_ones(()) if magnitude is None else magnitude)

    def _magnitude(self, stats: Stats, given: dict[str, Tensor]) -> Tensor | None:
        if self.scale == "adaptive":
            return torch.exp(given["a"] * (stats[-1] - 1))
        if self.scale == "learned":
            return torch.exp(given["a"])
        return stats[-1] if self.scale == "mad" else None
