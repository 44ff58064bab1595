"""Weight standardization of a float layer, whatever its class is called: found by its arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class WeightStandardization(nn.Module):
    """Per filter (w - mean) / deviation * gain * scale, applied to latent weights before binarization.

    The deviation is sqrt(var + eps) with the biased variance (Qiao et al., arXiv 1903.10520, as in BiT and
    NFNets), or sqrt(var) + eps with the unbiased one (the paper's own code).

    Args:
        eps: see above.
        scale: constant factor.
        gain: (Cout, 1, 1, 1) learnable, or None for 1.
        unbiased: the second deviation.
    """

    gain: nn.Parameter | None

    def __init__(
        self, eps: float, scale: float = 1.0, gain: nn.Parameter | None = None, *, unbiased: bool = False
    ) -> None:
        super().__init__()
        self.eps = eps
        self.scale = scale
        self.unbiased = unbiased
        self.register_parameter("gain", gain)

    def forward(self, weight: Tensor) -> Tensor:
        """(Cout, Cin, h, w) -> the same shape."""
        factor = None if self.gain is None else (self.gain * self.scale).reshape(-1)
        flat = weight.reshape(1, weight.shape[0], -1)
        if not self.unbiased:
            normed = F.batch_norm(flat, None, None, weight=factor, training=True, momentum=0.0, eps=self.eps)
            return normed.reshape(weight.shape)
        normed = (flat - flat.mean(-1, keepdim=True)) / (flat.std(-1, keepdim=True) + self.eps)
        if factor is not None:
            normed = normed * factor.view(1, -1, 1)
        return normed.reshape(weight.shape)


@dataclass(frozen=True)
class Standardization:
    """How a layer's class standardizes its weight.

    Attributes:
        eps: see `WeightStandardization`.
        scale: likewise.
        gain: name of the parameter of the layer, or None.
        unbiased: see `WeightStandardization`.
    """

    eps: float
    scale: float
    gain: str | None
    unbiased: bool

    def module(self, layer: Any) -> WeightStandardization:
        """The module that computes it, with the gain of `layer`."""
        gain = None if self.gain is None else layer._parameters[self.gain]
        return WeightStandardization(self.eps, self.scale, gain, unbiased=self.unbiased)


def standardization_of(layer: Any, applied: Tensor) -> Standardization | None:
    """The standardization that makes `applied` of the layer's weight; None if it is something else.

    Args:
        layer: with a weight of small variance, in which an eps shows.
        applied: what its forward convolves with, in the weight's shape.
    """
    weight = layer.weight.detach()
    if weight.dim() < 3 or applied.shape != weight.shape or weight[0].numel() < 2:
        return None
    held = sorted(v for v in vars(layer).values() if isinstance(v, float) and v > 0)
    gains = [n for n, p in layer._parameters.items() if n not in ("weight", "bias") and p is not None]
    for unbiased in (False, True):
        for eps in (*(v for v in held if v < 0.1), 1e-5, 1e-6, 1e-8, 1e-3, 1e-12):
            normed = WeightStandardization(eps, unbiased=unbiased)(weight)
            for gain in (None, *(n for n in gains if layer._parameters[n].numel() == weight.shape[0])):
                unit = normed
                if gain is not None:
                    factor = layer._parameters[gain].detach()
                    unit = normed * factor.reshape(-1, *(1,) * (weight.dim() - 1))
                scale = float((applied * unit).sum() / unit.square().sum())
                if torch.allclose(applied, unit * scale, rtol=1e-4, atol=1e-5 * float(applied.abs().max())):
                    exact = next((v for v in (1.0, *held) if abs(scale - v) < 1e-4 * v), scale)
                    return Standardization(eps, exact, gain, unbiased)
    return None
