"""Group-Net: Zhuang et al., Structured Binary Neural Networks, arXiv 1811.10413.

Forward: sign(x); mean(abs(w)) * sign(w), the mean over the whole layer.
Backward: max(0, 2 - 2 abs(x)) for activations, 1 for weights.
Block: sum over K bases of lambda_k BN_k(relu(conv_k(sign(x)))), + bypass; each base has binary weights, a
BatchNorm and a learnt scale of its own, and padded positions are +1. The bypass is the identity where
channels agree, average-pooled at a stride. No other activation.
Dilations: with `dilated`, base k = 0, 1... of a convolution has its dilation + k (the paper's BPAC).
Departures: the paper's groups are blocks whose bases run side by side through the network; at each group's
input a gate s mixes them, s x_k + (1 - s) sum_j lambda_j x_j. Here a group is one layer (the paper's
layer-wise decomposition, with ReLU and norm as in the authors' blocks). All its bases have one input, for
which the gate changes nothing, so there is none, nor have the authors one in front of their first group. One
float weight w starts all bases: latent weights w_0 = w, w_k+1 = w_k - mean(abs(w_k)) sign(w_k), and lambda_k
is the share of mean(abs(w_k)) in their sum (the authors train K float branches first, with scales from [0,
1)). Where channels change there is no bypass, and the network's own residual connection stays. `dilated`
holds for all convolutions with an odd kernel above 1; the authors dilate the last two stages, by 2 to 6 and
6 to 10, and their code gives all bases of a layer the last of these. Transposed convolutions are not padded.
Linear layers on tokens have one LayerNorm behind the sum in place of the BatchNorms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binarize.errors import ConfigError
from binarize.functional import Rule, sign
from binarize.functional.rules import Gradients, Stats
from binarize.layers import ApproxSignQuantizer, LayerRecipe, Pieces, PiecewiseLinear, Site
from binarize.layers.base import Padding
from binarize.layers.norm import affine_of, batch_norm, why_no_affine
from binarize.layers.recipe import recipe_of
from binarize.methods.base import ActivationSite, Method, register_method
from binarize.methods.parallel import (
    ParallelSum,
    binary_branch,
    bypass_for,
    refuse_units,
    remainders,
    widened,
)

_MEAN, _VARIANCE = 1 / math.sqrt(2 * math.pi), 0.5 - 1 / (2 * math.pi)
"""Moments of relu(x), x from N(0, 1)."""


@dataclass(frozen=True)
class LayerScaledSign(Rule):
    """Forward mean(abs(w)) * sign(w), the mean over the layer and detached; gradient 1."""

    symmetric: ClassVar[bool] = True

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        scale = x.abs().mean()
        return sign(x, scale), (scale,)

    def rebuild(self, x: Tensor, stats: Stats, *params: Tensor) -> Tensor:
        return sign(x, stats[0])

    def gradient(
        self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor, y: Tensor | None = None
    ) -> Gradients:
        return (grad,)


class RectifiedNorm(PiecewiseLinear):
    """scale * BatchNorm(relu(x)), scale a learnt number; scale * relu(x) without norm.

    Args:
        channels: C.
        norm: whether there is a BatchNorm.
        dim: channel dimension, 1 or -1.
        spatial: number of spatial dims.
    """

    def __init__(self, channels: int, *, norm: bool, dim: int = 1, spatial: int = 2) -> None:
        super().__init__()
        self._channels = channels
        self.norm = batch_norm(channels, dim=dim, spatial=spatial) if norm else None
        self.scale = nn.Parameter(torch.ones(()))

    def pieces(self) -> Pieces | str:
        scale = self.scale.detach().double()
        if self.norm is None:
            return Pieces(positive=scale.expand(self._channels))
        if (reason := why_no_affine(self.norm)) is not None:
            return reason
        factor, constant = affine_of(self.norm)
        return Pieces(positive=scale * factor, after=scale * constant)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) or (N, ..., C) -> the same shape."""
        y = F.relu(x)
        return self.scale * (y if self.norm is None else self.norm(y))


@register_method
@dataclass(frozen=True, kw_only=True)
class GroupNet(Method):
    """Each layer a sum of binary bases with ReLU, norm and scale; identity bypass; padding with +1.

    Attributes:
        bases: K, binary layers in place of each layer.
        dilated: each base has a dilation of its own.
        residual: `drop` removes the outer add around branches of bypassed layers.
    """

    name: ClassVar[str] = "groupnet"
    paper: ClassVar[str] = "arXiv 1811.10413"
    year: ClassVar[int | None] = 2018
    parallel: ClassVar[bool] = True

    bases: int = 5
    dilated: bool = False
    residual: Literal["drop", "keep"] = "drop"

    def __post_init__(self) -> None:
        if not 1 <= self.bases <= 64:
            raise ConfigError(f"groupnet: bases={self.bases}: expected 1 to 64.")
        refuse_units(self)

    def recipe(self, site: Site) -> LayerRecipe:
        inner = partial(RectifiedNorm, norm=site.kind != "token", dim=site.dim, spatial=site.spatial)
        return LayerRecipe(
            quantizer=ApproxSignQuantizer,
            weight_rule=LayerScaledSign(),
            norm="none",
            bypass=site.in_channels == site.out_channels,
            inner=partial(inner, site.out_channels),
        )

    def activation(self, site: ActivationSite) -> Callable[[], nn.Module] | None:
        return nn.Identity

    @property
    def drops_residual(self) -> bool:
        return self.residual == "drop"

    def composes(self, site: Site) -> bool:
        return True

    def compose(self, site: Site, weight: nn.Parameter, **geometry: Any) -> nn.Module | None:
        norm, padding = bool(geometry["norm"]), geometry["padding"]
        recipe = recipe_of(self, site)
        if not norm:
            bare = partial(RectifiedNorm, site.out_channels, norm=False, dim=site.dim, spatial=site.spatial)
            recipe = replace(recipe, inner=bare)
        latents, magnitudes = remainders(weight, self.bases, per_filter=False)
        normed = norm and site.kind != "token"
        shares = magnitudes / magnitudes.sum() if normed else torch.ones_like(magnitudes)
        bases, pads = [], []
        for number, latent in enumerate(latents):
            dilation, wanted = self._dilated(site, number, geometry["dilation"], padding)
            base: Any = binary_branch(
                site,
                recipe,
                latent,
                dilation=dilation,
                output_padding=geometry["output_padding"],
                padding=wanted if site.transposed else Padding(pads=((0, 0),) * site.spatial),
                trained=weight.requires_grad,
            )
            base.inner.scale = nn.Parameter(shares[number].clone())
            if normed:
                _expect_statistics(base, site)
            bases.append(base)
            pads.append(wanted if _pads(site, wanted) else None)
        behind = nn.LayerNorm(site.out_channels, eps=1e-6) if norm and site.kind == "token" else None
        bypass = bypass_for(site) if geometry["bypass"] and recipe.bypass else None
        return ParallelSum(bases, pads, norm=behind, bypass=bypass)

    def _dilated(
        self, site: Site, number: int, dilation: tuple[int, ...], padding: Padding
    ) -> tuple[tuple[int, ...], Padding]:
        """Dilation and padding of a base."""
        spread = max(site.kernel, default=1) > 1 and all(k % 2 for k in site.kernel) and not site.transposed
        if not self.dilated or not spread:
            return dilation, padding
        wider = tuple(d + number for d in dilation)
        return wider, replace(padding, pads=widened(padding.pads, site.kernel, number))


def _pads(site: Site, padding: Padding) -> bool:
    """Whether the input of a base is padded: with 0, of which the sign is +1."""
    if site.kind != "conv" or site.transposed:
        return False
    return padding.same or any(side for pair in padding.pads for side in pair)


def _expect_statistics(base: Any, site: Site) -> None:
    """Start the running statistics of a base from their values for inputs of +-1."""
    if base.weight.is_meta:
        return
    square = base.binary_filters().square().sum() / site.out_channels / math.prod(site.stride or (1,))
    if not site.transposed:
        square = base.binary_filters().flatten(1).square().sum(1)
    known = square > 0
    base.inner.norm.running_mean.copy_(torch.where(known, _MEAN * square.sqrt(), 0))
    base.inner.norm.running_var.copy_(torch.where(known, _VARIANCE * square, 1))
