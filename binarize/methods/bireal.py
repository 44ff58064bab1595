"""Bi-Real Net: Liu et al., Enhancing the Performance of 1-bit CNNs with Improved Representational Capability.

arXiv 1808.00278.
Forward: sign(x); mean(abs(w)) * sign(w) per filter.
Backward: max(0, 2 - 2 abs(x)) for activations, that of clamp(w, -1, 1) for weights.
Block: conv -> BN -> + bypass around every binary layer, and no other activation: the sign is the
nonlinearity. The bypass is the identity where channels agree, average-pooled at a stride.
Departures: the paper's gradient of the weights is that of its magnitude-aware sign, mean(abs(w)) times this
one; its authors' published code, and this, leave the factor out. Where channels change the paper has a float
1x1 convolution as bypass: here such a layer has none, and the network's own residual connection stays. Linear
layers on tokens have a LayerNorm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from binarize.functional import ScaledSign
from binarize.layers import ApproxSignQuantizer, LayerRecipe, Site
from binarize.methods.base import ActivationSite, Method, register_method
from binarize.methods.parts import norm_for


@register_method
@dataclass(frozen=True, kw_only=True)
class BiRealNet(Method):
    """Piecewise quadratic surrogate, scaled weights, identity bypass, no activation beside the sign.

    Attributes:
        residual: `drop` removes the outer add around branches of bypassed layers.
    """

    name: ClassVar[str] = "bireal"
    paper: ClassVar[str] = "arXiv 1808.00278"
    year: ClassVar[int | None] = 2018

    residual: Literal["drop", "keep"] = "drop"

    def recipe(self, site: Site) -> LayerRecipe:
        return LayerRecipe(
            quantizer=ApproxSignQuantizer,
            weight_rule=ScaledSign(),
            bias=site.kind == "token",
            norm=norm_for(site),
            bypass=site.in_channels == site.out_channels,
        )

    def activation(self, site: ActivationSite) -> Callable[[], nn.Module] | None:
        return nn.Identity

    @property
    def drops_residual(self) -> bool:
        return self.residual == "drop"
