"""MBU-Net: Wu et al., Zeros can be Informative: Masked Binary U-Net for Image Segmentation on Tensor Cores.

arXiv 2601.11660 (2026).
Forward: sign(x); in masked layers m sign(w), the mask m being 1 where abs(w) > d, else 0; in the others
sign(w). No scale: the norm behind has it.
Backward: 1 for abs(x) <= 1, else 0; the same for weights, those of mask 0 included.
Masked layers: the cheapest, since zeros help each layer about equally. A layer's cost is w_op times its share
of the operations plus 1 - w_op times its share of the parameters.
As bits: m sign(w) = (sign(w - d) + sign(w + d)) / 2, two binary convolutions of the same activations.
Two bits store the log2(3) = 1.58 bits of a weight.
Block: conv -> BN -> hard tanh in place of the network's activation; the network's own residual connections.
Departures: written from the paper's abstract and summaries of it; its text was not available. They do not say
what makes a weight 0: here d = 0.7 mean(abs(w)) of the layer, as in ternary weight networks (arXiv
1605.04711). Layers are masked, from the cheapest on, while together they have at most `masked` of the cost.
0.35 is near the paper's light variant, which has a third of what masks everywhere cost. The paper chooses
among pairs of convolutions, here each layer counts for itself. Its two bits of a weight are 0 or 1 and are
subtracted. A layer on its own (`binary_layer`) is masked. Linear layers on tokens have a LayerNorm.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from binarize.errors import ConfigError
from binarize.functional import Rule, SteSign, sign
from binarize.functional.rules import Gradients, Stats
from binarize.functional.sign import clip_gradient
from binarize.layers import LayerCost, LayerRecipe, SignSTE, Site
from binarize.methods.base import ActivationSite, Method, register_method
from binarize.methods.parts import norm_for


@dataclass(frozen=True)
class MaskedSign(Rule):
    """Forward sign(w) where abs(w) > d, else 0; gradient of clamp(w, -1, 1). d = threshold * mean(abs(w)).

    Attributes:
        threshold: of the mask, in mean magnitudes.
    """

    threshold: float = 0.7
    symmetric: ClassVar[bool] = True
    scaled: ClassVar[bool] = False

    @property
    def planes(self) -> int:
        return 2

    def signs(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Tensor]:
        bound = self._bound(x)
        return torch.stack([x > bound, x >= -bound]), x.new_full((2, len(x), *(1,) * (x.dim() - 1)), 0.5)

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        bound = self._bound(x)
        return self.rebuild(x, (bound,)), (bound,)

    def _bound(self, x: Tensor) -> Tensor:
        return x.abs().mean() * self.threshold

    def rebuild(self, x: Tensor, stats: Stats, *params: Tensor) -> Tensor:
        return torch.where(x.abs() > stats[0], sign(x), 0)

    def gradient(
        self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor, y: Tensor | None = None
    ) -> Gradients:
        return (clip_gradient(grad, x),)

    def formula(self, x: Tensor, *params: Tensor) -> Tensor:
        kept = torch.sign(x) * (x.abs() > self.threshold * x.abs().mean())
        surrogate = x.clamp(-1, 1)
        return kept.detach() + surrogate - surrogate.detach()


@register_method
@dataclass(frozen=True, kw_only=True)
class MBUNet(Method):
    """Weights in {-1, 0, +1} in the cheapest layers, signs in the others; hard tanh.

    Attributes:
        threshold: weights of at most this many times the mean magnitude of their layer are 0.
        masked: share of the layers' cost that is masked, from the cheapest layer on; 1 masks all.
        w_op: weight of the operations in a layer's cost, against its parameters.
    """

    name: ClassVar[str] = "mbunet"
    paper: ClassVar[str] = "arXiv 2601.11660"
    year: ClassVar[int | None] = 2026
    bits: ClassVar[tuple[int, int]] = (2, 1)

    threshold: float = 0.7
    masked: float = 0.35
    w_op: float = 0.5

    def __post_init__(self) -> None:
        if not (0 <= self.threshold <= 3 and 0 <= self.masked <= 1 and 0 <= self.w_op <= 1):
            given = f"threshold={self.threshold}, masked={self.masked}, w_op={self.w_op}"
            raise ConfigError(f"mbunet: {given}: expected threshold 0 to 3, masked and w_op 0 to 1.")

    def reduced(self, costs: Sequence[LayerCost]) -> Collection[int]:
        macs, weights = (sum(column) or 1 for column in zip(*costs, strict=True))
        scores = [self.w_op * c.macs / macs + (1 - self.w_op) * c.weights / weights for c in costs]
        spent, beyond = 0.0, []
        for place in sorted(range(len(costs)), key=scores.__getitem__):
            spent += scores[place]
            if spent > self.masked + 1e-9:
                beyond.append(place)
        return beyond

    def recipe(self, site: Site) -> LayerRecipe:
        return LayerRecipe(
            quantizer=SignSTE,
            weight_rule=SteSign() if site.reduced else MaskedSign(self.threshold),
            bias=site.kind == "token",
            norm=norm_for(site),
        )

    def activation(self, site: ActivationSite) -> Callable[[], nn.Module] | None:
        return nn.Hardtanh
