"""BBCU: Xia et al., Basic Binary Convolution Unit for Binarized Image Restoration Network, arXiv 2210.00405.

Forward: sign(x + b) with b per channel; mean(abs(w)) * sign(w) per filter.
Backward: max(0, 2 - 2 abs(x + b)) for activations, that of clamp(w, -1, 1) for weights.
Unit: y = RPReLU(conv(.)) + x where input and output have one shape, no BatchNorm: image restoration needs the
range of values that a BatchNorm takes away, and the activation inside keeps the bypass from losing its
negative half.
Departures: where the shape changes, conv -> BN without bypass, then RPReLU. The paper's unit for upsampling
(RPReLU -> pixel shuffle, + x upsampled to the nearest) is this one in a network whose pixel shuffle is a
module of its own, but without its bypass. Its factor in front of the residual path (residual alignment) is a
matter of the network. The network's own activations become RPReLU, also those beside units. Linear layers on
tokens have a LayerNorm and no bypass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from torch import nn

from binarize.functional import ScaledSign
from binarize.layers import LayerRecipe, RPReLU, ShiftedSignQuantizer, Site
from binarize.methods.base import ActivationSite, Method, register_method
from binarize.methods.parts import norm_for, rprelu


@register_method
@dataclass(frozen=True, kw_only=True)
class BBCU(Method):
    """Learnt shifts in front of sign, scaled weights, units RPReLU(conv(.)) + x without BatchNorm.

    Attributes:
        residual: `drop` removes the outer add around branches of bypassed layers.
    """

    name: ClassVar[str] = "bbcu"
    paper: ClassVar[str] = "arXiv 2210.00405"
    year: ClassVar[int | None] = 2023

    residual: Literal["drop", "keep"] = "drop"

    def recipe(self, site: Site) -> LayerRecipe:
        unit = site.kind != "token" and site.keeps_shape
        channels = site.out_channels
        return LayerRecipe(
            quantizer=partial(ShiftedSignQuantizer, site.in_channels, dim=site.dim, spatial=site.spatial),
            weight_rule=ScaledSign(),
            bias=site.kind == "token",
            norm="none" if unit else norm_for(site),
            bypass=unit,
            inner=partial(RPReLU, channels, dim=site.dim, spatial=site.spatial) if unit else None,
        )

    def activation(self, site: ActivationSite) -> Callable[[], nn.Module] | None:
        return rprelu(site)

    @property
    def drops_residual(self) -> bool:
        return self.residual == "drop"
