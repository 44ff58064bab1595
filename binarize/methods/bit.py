"""BiT: Liu et al., Robustly Binarized Multi-distilled Transformer, arXiv 2205.13016.

Forward (elastic binarization), z = x + move with `move` per channel and alpha one learnt number per layer:
alpha sign(z); for inputs without negative values, as behind a ReLU, alpha where z / alpha >= 1/2, else 0.
Weights: mean(abs(w)) * sign(w - mean(w)) per filter.
Backward: of signed activations 1 for abs(z) <= alpha, and dalpha = c sum g sign(z); of unsigned ones 1 for 0
<= z <= alpha, and dalpha = c sum g d, d = round(z / alpha) - z / alpha there, 1 above, 0 below; c = 1 /
sqrt(size of x in all processes). That of clamp(w - mean(w), -1, 1) for weights, the scale constant.
During training: alpha starts from the first batch, 2 mean(abs(z)) signed, 4 mean(abs(z)) unsigned.
Block: linear layers with their bias, the network's own norms and residual connections; each activation of the
network (GELU, say) becomes a ReLU, whose results are binarized unsigned. Convolutions: conv -> BN.
Departures: attention is float. The paper's distillation in several steps is a matter of training. z / alpha =
1/2 gives alpha (0 in the authors' code, which rounds to even). Before training alpha is 1. With several
processes alpha starts from the mean of theirs. Filters of one weight, which centred have no sign, stay float.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from binarize.functional import CentredScaledSign, Rule, sign
from binarize.functional.rules import Gradients, Stats, sum_to
from binarize.layers import LayerRecipe, Quantizer, SignForm, Site
from binarize.layers.quantizers import channel_shape
from binarize.layers.training_state import mean_of_processes, processes
from binarize.methods.base import ActivationSite, Method, register_method
from binarize.methods.parts import single_weight

_LEAST = 1e-5
"""Of alpha."""


@dataclass(frozen=True)
class Elastic(Rule):
    """The formulas above. Takes alpha and move.

    Attributes:
        unsigned: two values 0 and alpha.
    """

    unsigned: bool = False

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        alpha, move = params[0].clamp_min(_LEAST), params[1]
        if self.unsigned:
            return (x + move >= alpha / 2).to(x.dtype).mul_(alpha), ()
        return sign(x + move).mul_(alpha), ()

    def gradient(
        self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor, y: Tensor | None = None
    ) -> Gradients:
        alpha, move = params[0].clamp_min(_LEAST), params[1]
        z = x + move
        scale = 1 / math.sqrt(x.numel() * processes())
        if self.unsigned:
            part = z / alpha
            upper = (part >= 0.5).to(x.dtype)
            inside = (part >= 0) & (part <= 1)
            slope = torch.where(inside, upper - part, upper)
        else:
            slope, inside = sign(z), z.abs() <= alpha
        gx = torch.where(inside, grad, 0)
        return gx, ((grad * slope).sum() * scale).reshape(params[0].shape), sum_to(gx, move.shape)


class ElasticSign(Quantizer):
    """Elastic binarization with `alpha` and `move`.

    With several processes, all of them have to call each layer equally often until its alpha has started:
    they share its start value. Layers behind a branch that depends on the data may wait for each other.

    Args:
        channels: input channels C.
        unsigned: see `Elastic`.
        dim: channel dimension.
        spatial: number of spatial dims.
    """

    rule: Elastic
    started: Tensor

    def __init__(self, channels: int, *, unsigned: bool = False, dim: int = 1, spatial: int = 2) -> None:
        super().__init__()
        self.rule = Elastic(unsigned)
        self.values = "{0, alpha}" if unsigned else ""
        self.alpha = nn.Parameter(torch.ones(()))
        self.move = nn.Parameter(torch.zeros(channel_shape(channels, dim, spatial)))
        self.register_buffer("started", torch.tensor(False))
        self._asked = False  # whether `started` is known to be true, so that no step asks again

    def rule_parameters(self) -> tuple[Tensor, ...]:
        return self.alpha, self.move

    def prepare(self, x: Tensor) -> Tensor:
        if self.training and not self._asked:
            with torch.no_grad():
                size = (4 if self.rule.unsigned else 2) * (x + self.move).abs().float().mean()
                size = mean_of_processes(size).to(self.alpha.dtype)
                self.alpha.copy_(torch.where(self.started | (size <= 0), self.alpha, size))
                self.started.logical_or_(size > 0)
            self._asked = bool(self.started)
        return x

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._asked = False  # the state says

    def sign_form(self) -> SignForm:
        alpha = self.alpha.detach().clamp_min(_LEAST)
        shift = self.move.detach() - alpha / 2 if self.rule.unsigned else self.move.detach()
        return SignForm(shift=shift, factor=alpha, unsigned=self.rule.unsigned)


@register_method
@dataclass(frozen=True, kw_only=True)
class BiT(Method):
    """Elastic binarization with a learnt scale, {0, 1} behind a ReLU; ReLU for GELU; the network's norms."""

    name: ClassVar[str] = "bit"
    paper: ClassVar[str] = "arXiv 2205.13016"
    year: ClassVar[int | None] = 2022

    def recipe(self, site: Site) -> LayerRecipe:
        unsigned = site.sees_no_negatives
        return LayerRecipe(
            quantizer=partial(
                ElasticSign, site.in_channels, unsigned=unsigned, dim=site.dim, spatial=site.spatial
            ),
            weight_rule=CentredScaledSign(),
            bias=site.has_bias,
            norm="own" if site.kind == "token" else "batch",
        )

    def refuses(self, site: Site) -> str | None:
        return "a filter of one weight, centred, has no sign" if single_weight(site) else None

    def activation(self, site: ActivationSite) -> Callable[[], nn.Module] | None:
        return nn.ReLU
