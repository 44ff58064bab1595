"""CBNN: Zhou et al., Cellular Binary Neural Network, IEEE Transactions on Multimedia, 2022.

Forward: sign(x + b), b per channel; mean(abs(w)) * sign(w) per filter.
Backward: max(0, 2 - 2 abs(x + b)) for activations, that of clamp(w, -1, 1) for weights.
Block: two branches, o_i = RPReLU(BN(conv(.))), with lateral links l_i per channel: out_1 = o_1 + l_2 o_2,
out_2 = o_2 + l_1 o_1; then (out_1 + out_2) / 2 + bypass. The bypass is the identity where channels agree,
average-pooled at a stride. No other activation.
Departures: after the authors' code (their paper was not available). Its two branches run side by side through
the whole network, each with its residuals, and are added up at its end. Here they are added up behind each
layer, where the links amount to a factor 1 + l_i of each branch; and half their sum is taken, so that the
bypass weighs as much as in a branch of theirs. Their residual is inside the RPReLU, and a float 1x1
convolution where channels change: here such a layer has no bypass, and the network's own residual connection
stays. One float weight w starts both branches: latent weights w and w - mean(abs(w)) sign(w) (theirs start
at random). Links start in [0, 1e-3), as theirs for ImageNet. Linear layers on tokens have a LayerNorm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from binarize.functional import ScaledSign
from binarize.layers import LayerRecipe, Pieces, PiecewiseLinear, RPReLU, ShiftedSignQuantizer, Site
from binarize.layers.quantizers import channel_shape
from binarize.layers.recipe import recipe_of
from binarize.methods.base import ActivationSite, Method, register_method
from binarize.methods.parallel import ParallelSum, binary_branch, bypass_for, refuse_units, remainders
from binarize.methods.parts import norm_for


class LinkedRPReLU(PiecewiseLinear):
    """(1 + link) / 2 * RPReLU(x), all per channel: what a branch adds to the sum of both.

    Args:
        channels: C.
        dim: channel dimension, 1 or -1.
        spatial: number of spatial dims.
    """

    def __init__(self, channels: int, *, dim: int = 1, spatial: int = 2) -> None:
        super().__init__()
        self.act = RPReLU(channels, dim=dim, spatial=spatial)
        self.link = nn.Parameter(torch.rand(channel_shape(channels, dim, spatial)) * 1e-3)

    def pieces(self) -> Pieces:
        parts = (self.act.b0, self.act.weight, self.act.b1, self.link)
        before, slope, after, link = (part.detach().double().flatten() for part in parts)
        factor = (1 + link) / 2
        return Pieces(before, slope * factor, factor, after * factor)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) or (N, ..., C) -> the same shape."""
        return (1 + self.link) / 2 * self.act(x)


@register_method
@dataclass(frozen=True, kw_only=True)
class CBNN(Method):
    """Each layer two binary branches with lateral links; learnt shifts, RPReLU, identity bypass.

    Attributes:
        residual: `drop` removes the outer add around branches of bypassed layers.
    """

    name: ClassVar[str] = "cbnn"
    paper: ClassVar[str] = "IEEE TMM 2022"
    year: ClassVar[int | None] = 2022
    parallel: ClassVar[bool] = True

    residual: Literal["drop", "keep"] = "drop"

    def __post_init__(self) -> None:
        refuse_units(self)

    def recipe(self, site: Site) -> LayerRecipe:
        return LayerRecipe(
            quantizer=partial(ShiftedSignQuantizer, site.in_channels, dim=site.dim, spatial=site.spatial),
            weight_rule=ScaledSign(),
            norm=norm_for(site),
            bypass=site.in_channels == site.out_channels,
            inner=partial(LinkedRPReLU, site.out_channels, dim=site.dim, spatial=site.spatial),
        )

    def activation(self, site: ActivationSite) -> Callable[[], nn.Module] | None:
        return nn.Identity

    @property
    def drops_residual(self) -> bool:
        return self.residual == "drop"

    def composes(self, site: Site) -> bool:
        return True

    def compose(self, site: Site, weight: nn.Parameter, **geometry: Any) -> nn.Module | None:
        given = {name: geometry[name] for name in ("dilation", "output_padding", "padding")}
        recipe = recipe_of(self, site)
        if not geometry["norm"]:
            recipe = replace(recipe, norm="none")
        latents, _ = remainders(weight, 2, per_filter=True)
        trained = weight.requires_grad
        branches = [binary_branch(site, recipe, latent, trained=trained, **given) for latent in latents]
        bypass = bypass_for(site) if geometry["bypass"] and recipe.bypass else None
        return ParallelSum(branches, (None, None), bypass=bypass)
