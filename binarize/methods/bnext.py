"""BNext: Guo et al., Join the High Accuracy Club on ImageNet with A Binary Neural Network Ticket.

arXiv 2211.12933.
Forward: sign(x + move), `move` per channel; weights clamp(w / T, -1, 1), which is sign(w) in the end, no
scale.
Backward: 1 for abs(x + move) <= 1.5, else 0; 1 for abs(w) <= 1.5, beyond only where a step makes abs(w)
smaller.
During training: the temperature T = 0.9^(512 progress) falls from 1 (the authors: by a tenth in each of 512
epochs); below 1e-7, from 30 % of the training on, weights are signs.
Block: conv -> BN -> PReLU per channel -> + bypass; the bypass is the identity where channels agree,
average-pooled at a stride, and x twice where they double (the authors: two convolutions with the same bypass,
concatenated). The network's own activations become PReLU per channel, too.
Departures: without the element-wise attention and the recoupling by squeeze-excitation of the paper's blocks,
float branches that multiply: the authors' `BasicBlock_No_Extra_Design`. They clamp the latent weights
themselves to +-1.5 in each step; here those beyond keep their value until a gradient makes them smaller.
Until `set_progress` is called, T is 1 and weights are not binary; such layers cannot be packed. Linear layers
on tokens have a LayerNorm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from binarize.errors import ConfigError
from binarize.functional import Rule, sign
from binarize.functional.rules import Gradients, Stats, sum_to
from binarize.functional.sign import shift
from binarize.layers import ChannelPReLU, LayerRecipe, Quantizer, SignForm, Site, WeightState
from binarize.layers.quantizers import channel_shape
from binarize.methods.base import ActivationSite, Method, register_method
from binarize.methods.parts import norm_for

_BINARY = 1e-7
"""Temperatures below it count as 0."""


@dataclass(frozen=True)
class HardSign(Rule):
    """Forward sign(x + move), gradient 1 for abs(x + move) <= 1.5. Takes move."""

    reach: float = 1.5

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        return sign(shift(x, -params[0]), positive_zeros=True), ()

    def gradient(
        self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor, y: Tensor | None = None
    ) -> Gradients:
        gx = torch.where((x + params[0]).abs() <= self.reach, grad, 0)
        return gx, sum_to(gx, params[0].shape)


@dataclass(frozen=True)
class TemperedWeights(Rule):
    """Forward clamp(w / T, -1, 1), sign(w) for T < 1e-7. Takes T.

    Gradient 1 for abs(w) <= 1.5; beyond, where a step against it makes abs(w) smaller, else 0.
    """

    reach: float = 1.5
    symmetric: ClassVar[bool] = True
    scaled: ClassVar[bool] = False

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        (temperature,) = params
        soft = (x / temperature.clamp_min(_BINARY)).clamp(-1, 1)
        return torch.where(temperature < _BINARY, sign(x), soft), ()

    def gradient(
        self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor, y: Tensor | None = None
    ) -> Gradients:
        inwards = (x * grad > 0).logical_or_(x.abs() <= self.reach)  # a step goes against the gradient
        return torch.where(inwards, grad, 0), None


class HardSignQuantizer(Quantizer):
    """sign(x + move) with a wide straight-through gradient.

    Args:
        channels: input channels C.
        dim: channel dimension.
        spatial: number of spatial dims.
    """

    def __init__(self, channels: int, *, dim: int = 1, spatial: int = 2) -> None:
        super().__init__()
        self.rule = HardSign()
        self.move = nn.Parameter(torch.zeros(channel_shape(channels, dim, spatial)))

    def rule_parameters(self) -> tuple[Tensor, ...]:
        return (self.move,)

    def sign_form(self) -> SignForm:
        return SignForm(shift=self.move.detach())


class Temperature(WeightState):
    """`temperature`, which follows the progress of training."""

    temperature: Tensor

    @property
    def unfinished(self) -> str:  # type: ignore[override] - depends on the state
        """See `WeightState`."""
        if self.temperature.is_meta or float(self.temperature) < _BINARY:
            return ""
        return (
            f"its weights are not binary yet (temperature {float(self.temperature):.3g}): train on, or call "
            "binarize.set_progress(model, 1.0)"
        )


@register_method
@dataclass(frozen=True, kw_only=True)
class BNext(Method):
    """Weights that become signs as a temperature falls, wide straight-through gradients, PReLU inside.

    Attributes:
        residual: `drop` removes the outer add around branches of bypassed layers.
        decay: factor of the temperature in each of 512 parts of the training.
    """

    name: ClassVar[str] = "bnext"
    paper: ClassVar[str] = "arXiv 2211.12933"
    year: ClassVar[int | None] = 2022

    residual: Literal["drop", "keep"] = "drop"
    decay: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1 or self.decay**512 >= _BINARY:
            raise ConfigError(
                f"bnext: decay={self.decay}: expected 0 to 0.968, or weights never become signs."
            )

    def temperature(self, progress: float) -> float:
        """The T of a progress from 0 to 1."""
        return self.decay ** (512 * progress)

    def recipe(self, site: Site) -> LayerRecipe:
        return LayerRecipe(
            quantizer=partial(HardSignQuantizer, site.in_channels, dim=site.dim, spatial=site.spatial),
            weight_rule=TemperedWeights(),
            weight_state=partial(Temperature, temperature=self.temperature),
            bias=site.kind == "token",
            norm=norm_for(site),
            bypass=site.out_channels in (site.in_channels, 2 * site.in_channels),
            inner=partial(ChannelPReLU, site.out_channels, dim=site.dim),
        )

    def activation(self, site: ActivationSite) -> Callable[[], nn.Module] | None:
        return partial(ChannelPReLU, site.channels, dim=site.dim)

    @property
    def drops_residual(self) -> bool:
        return self.residual == "drop"
