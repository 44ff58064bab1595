"""LQ-Nets: Zhang et al., Learned Quantization for Highly Accurate and Compact DNNs, arXiv 1807.10029.

Forward: the nearest of the levels sum_k v_k c_k; of weights c in {-1, 1} and a basis v per filter, of
activations c in {0, 1} and one basis per layer. Inputs with negative values: c in {-1, 1}.
Backward: 1 for weights; of activations 1 up to the largest level, and with signs down to the smallest.
During training: each basis is fitted to what the layer sees, by least squares for the codes of before (QEM),
v = 0.9 v + 0.1 (C^T C)^-1 C^T x; activations start from the first batch.
Block: conv -> BN -> ReLU in place of the network's activation, no bypass but the network's own residuals.
Departures: the paper has codes {0, 1} behind ReLUs only. A number on a threshold gets the upper level (in the
authors' code the lower one). A step computes with its own fit (theirs with that of the step before). Bases of
weights start from the deviation of the latent weights and one fit (theirs from that of new weights), those of
activations from the first batch (theirs from deviation 1, which is what they are before training here).
Several processes fit one basis to the data of all (theirs to that of the first). Where codes are missing, the
fit keeps to the basis of before, for activations too. Linear layers on tokens have a LayerNorm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from binarize.functional import Rule
from binarize.functional.levels import Moments, fitted, levels_of, moments_of
from binarize.functional.rules import Gradients, Stats
from binarize.layers import LayerRecipe, LevelForm, Quantizer, SignForm, Site, WeightState
from binarize.layers.training_state import as_they_are, mean_of_processes
from binarize.methods.base import ActivationSite, Method, register_method
from binarize.methods.parts import filter_shape, norm_for

Bits = Literal[1, 2, 3]

_KEPT = 0.9  # of a basis, in each step
_QUARTER = 0.6745  # half of all normal numbers lie nearer to 0, in deviations


def start_of(bits: int, *, signed: bool) -> Tensor:
    """(K,): the authors' basis for normal numbers of deviation 1, or for their positive part."""
    step = _QUARTER / 2 ** (bits - 1) if signed else 2 * _QUARTER / (2**bits - 1)
    return step * 2.0 ** torch.arange(bits)


@dataclass(frozen=True)
class LQWeights(Rule):
    """The nearest level, gradient 1. Takes the basis (K, Cout, 1, ...)."""

    symmetric: ClassVar[bool] = True
    bits: int = 1

    @property
    def planes(self) -> int:
        return self.bits

    def signs(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Tensor]:
        return levels_of(params[0], signed=True).digits(x) > 0, params[0]

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        return levels_of(params[0], signed=True).nearest(x), ()

    def gradient(
        self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor, y: Tensor | None = None
    ) -> Gradients:
        return grad, None

    def formula(self, x: Tensor, *params: Tensor) -> Tensor:
        return self.quantize(x.detach(), *params)[0] + x - x.detach()


@dataclass(frozen=True)
class LQActivations(Rule):
    """The nearest level, gradient 1 within the levels. Takes the basis (K,)."""

    signed: bool = False

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        return levels_of(params[0], signed=self.signed).nearest(x), ()

    def gradient(
        self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor, y: Tensor | None = None
    ) -> Gradients:
        top = levels_of(params[0], signed=self.signed).values[-1]
        return torch.where((x.abs() if self.signed else x) <= top, grad, 0), None


class LearntLevels(Quantizer):
    """`LQActivations` with its `basis` (K,). With several processes, all call each layer equally often.

    Args:
        bits: K.
        signed: codes are -1 and 1.
        dim: channel dimension.
    """

    rule: LQActivations
    basis: Tensor
    started: Tensor

    def __init__(self, bits: int, *, signed: bool, dim: int = 1) -> None:
        super().__init__()
        self._dim = dim
        self.rule = LQActivations(signed)
        self.values = "" if signed else "{0, v}" if bits == 1 else f"0 and {2**bits - 1} learnt levels"
        self.register_buffer("basis", start_of(bits, signed=signed))
        self.register_buffer("started", torch.tensor(False))
        self._asked = False  # whether `started` is known to be true

    @property
    def planes(self) -> int:
        return len(self.basis)

    @property
    def needs_negatives(self) -> bool:
        return self.rule.signed and self.planes == 1

    def rule_parameters(self) -> tuple[Tensor, ...]:
        return as_they_are(self.basis)

    def prepare(self, x: Tensor) -> Tensor:
        if self.training and x.numel():
            with torch.no_grad():
                self._start(x)
                means = moments_of(x, levels_of(self.basis, signed=self.rule.signed))
                both = mean_of_processes(torch.cat([means.codes.flatten(), means.products]))
                codes, products = both.split([means.codes.numel(), len(means.products)])
                refit(self.basis, Moments(codes.view_as(means.codes), products), (1 - _KEPT) * self.started)
        return x

    def _start(self, x: Tensor) -> None:
        if self._asked:
            return
        square = mean_of_processes(x.float().square().mean()) * (1 if self.rule.signed else 2)
        first = start_of(len(self.basis), signed=self.rule.signed).to(self.basis) * square.sqrt()
        usable = square.isfinite() & (square > 0)
        self.basis.copy_(torch.where(self.started | ~usable, self.basis, first))
        self.started.logical_or_(usable)
        self._asked = bool(self.started)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._asked = False  # the state says

    def sign_form(self) -> SignForm | str:
        if self.planes > 1:
            return "it has more than one bit"
        if self.rule.signed:
            return SignForm(factor=self.basis.abs()[0])
        level = self.basis.clamp_min(0)  # below, no input would be nearer to it than to 0
        return SignForm(shift=-level / 2, factor=level[0], unsigned=True)

    def level_form(self) -> LevelForm:
        return LevelForm(self.basis, self.rule.signed)

    def is_upper(self, x: Tensor) -> Tensor:
        y = self.rule.quantize(x, *self.rule_parameters())[0]
        channels = self._dim % x.dim()
        return y > y.mean([d for d in range(x.dim()) if d != channels], keepdim=True)


class Basis(WeightState):
    """The `basis` (K, Cout) of a layer's weights."""

    basis: Tensor

    def __init__(self, bits: int, site: Site) -> None:
        super().__init__()
        self._each = filter_shape(site)
        self.register_buffer("basis", start_of(bits, signed=True)[:, None].repeat(1, site.out_channels))

    def start(self, weight: Tensor) -> None:
        deviation = weight.square().flatten(1).mean(1).sqrt()
        self.basis.copy_(start_of(len(self.basis), signed=True).to(weight)[:, None] * deviation)
        self._refit(weight, 1.0)

    def prepare(self, weight: Tensor) -> None:
        with torch.no_grad():
            self._refit(weight, 1 - _KEPT)

    def rule_parameters(self) -> tuple[Tensor, ...]:
        return as_they_are(self._per_filter())

    def _per_filter(self) -> Tensor:
        # a buffer of 5 dims would make an error of `net.to(memory_format=torch.channels_last)`
        return self.basis.view(-1, *self._each)

    def _refit(self, weight: Tensor, share: float) -> None:
        refit(self._per_filter(), moments_of(weight, levels_of(self._per_filter(), signed=True)), share)


def refit(basis: Tensor, means: Moments, share: Tensor | float) -> None:
    """Move a basis by this share towards the one that fits, in place; not where that is not finite."""
    found = fitted(basis, means)
    basis.copy_(torch.where(found.isfinite(), basis + share * (found - basis), basis))


@register_method
@dataclass(frozen=True, kw_only=True)
class LQNet(Method):
    """Weights and activations of 1 to 3 bits with learnt bases, fitted by least squares; ReLU.

    Attributes:
        weight_bits: K of weights.
        activation_bits: K of activations.
    """

    name: ClassVar[str] = "lqnet"
    paper: ClassVar[str] = "arXiv 1807.10029"
    year: ClassVar[int | None] = 2018

    weight_bits: Bits = 1
    activation_bits: Bits = 1

    @property
    def bits(self) -> tuple[int, int]:
        return self.weight_bits, self.activation_bits

    def recipe(self, site: Site) -> LayerRecipe:
        return LayerRecipe(
            quantizer=partial(
                LearntLevels, self.activation_bits, signed=not site.sees_no_negatives, dim=site.dim
            ),
            weight_rule=LQWeights(self.weight_bits),
            weight_state=partial(Basis, self.weight_bits, site),
            bias=site.kind == "token",
            norm=norm_for(site),
        )

    def activation(self, site: ActivationSite) -> Callable[[], nn.Module] | None:
        return nn.ReLU
