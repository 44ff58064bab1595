"""ReActNet: Liu et al., Towards Precise Binary Neural Network with Generalized Activation Functions.

arXiv 2003.03488.
Forward: sign(x + beta) with beta per channel; mean(abs(w)) * sign(w) per filter.
Backward: max(0, 2 - 2 abs(x + beta)) for activations, that of clamp(w, -1, 1) for weights.
Block: conv -> BN -> + bypass -> RPReLU in place of the network's activation. The bypass is the identity where
the channels agree (average-pooled at a stride), and x repeated twice where they double: in the paper's
MobileNet two convolutions with the same bypass, concatenated, which is the same sum.
Departures: "table" form as in BiDense's Table 1: identity bypass only around shape-keeping spatial
convolutions that no activation follows; learnable bias and PReLU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from torch import nn

from binarize.functional import ScaledSign
from binarize.layers import LayerRecipe, ShiftedSignQuantizer, Site
from binarize.methods.base import ActivationSite, Form, Method, register_method
from binarize.methods.parts import norm_for, rprelu, table_bypass, table_prelu


@register_method
@dataclass(frozen=True, kw_only=True)
class ReActNet(Method):
    """Learnt shifts in front of sign, scaled weights, identity bypass, RPReLU.

    Attributes:
        form: `table` builds the networks of Table 1 of BiDense.
        residual: `drop` removes the outer add around branches of bypassed layers.
    """

    name: ClassVar[str] = "reactnet"
    paper: ClassVar[str] = "arXiv 2003.03488"
    year: ClassVar[int | None] = 2020

    form: Form = "default"
    residual: Literal["drop", "keep"] = "drop"

    def recipe(self, site: Site) -> LayerRecipe:
        bypass = site.out_channels in (site.in_channels, 2 * site.in_channels)
        return LayerRecipe(
            quantizer=partial(ShiftedSignQuantizer, site.in_channels, dim=site.dim, spatial=site.spatial),
            weight_rule=ScaledSign(),
            bias=site.kind == "token",
            norm=norm_for(site),
            bypass=table_bypass(site) if self.form == "table" else bypass,
        )

    def activation(self, site: ActivationSite) -> Callable[[], nn.Module] | None:
        return table_prelu(site) if self.form == "table" else rprelu(site)

    @property
    def drops_residual(self) -> bool:
        return self.residual == "drop" and self.form == "default"
