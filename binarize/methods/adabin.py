"""AdaBin: Tu et al., Improving Binary Neural Networks with Adaptive Binary Sets, arXiv 2208.08084.

Forward: alpha_a * (sign((x - beta_a) / alpha_a) + beta_a), two learnt numbers per layer;
alpha_w * sign((w - beta_w) / alpha_w) + beta_w with mean and deviation of each filter.
Backward: max(0, 2 - 2 abs(u)) for activations; k t (1 - tanh(t u)^2) for weights, nothing detached.
Block: conv -> BN -> bypass where shapes allow -> Maxout in place of the network's activation.
Departures: the deviation divides by the true filter size (`authors_filter_size` restores the authors' count);
latent weights are the float ones. "table" form as in BiDense's Table 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from torch import nn

from binarize.errors import ConfigError
from binarize.functional import AdaBinWeights
from binarize.layers import AdaBinSign, LayerRecipe, Maxout, Site
from binarize.methods.base import ActivationSite, Form, Method, register_method
from binarize.methods.parts import norm_for, single_weight, table_bypass


@register_method
@dataclass(frozen=True, kw_only=True)
class AdaBin(Method):
    """Adaptive binary sets for activations and weights, identity bypass, Maxout.

    Attributes:
        form: `table` builds the networks of Table 1 of BiDense.
        residual: `drop` removes the outer add around branches of bypassed layers.
        k: height of the weights' surrogate gradient.
        t: sharpness of the weights' surrogate gradient.
        authors_filter_size: count the filter size of grouped convolutions as the authors' code does.
    """

    name: ClassVar[str] = "adabin"
    paper: ClassVar[str] = "arXiv 2208.08084"
    year: ClassVar[int | None] = 2022

    form: Form = "default"
    residual: Literal["drop", "keep"] = "drop"
    k: float = 10.0
    t: float = 0.1
    authors_filter_size: bool = False

    def __post_init__(self) -> None:
        if not (self.k > 0 and self.t > 0):
            raise ConfigError(
                f"adabin: k={self.k}, t={self.t}: expected numbers above 0, else no weight learns."
            )

    def recipe(self, site: Site) -> LayerRecipe:
        return LayerRecipe(
            quantizer=AdaBinSign,
            weight_rule=AdaBinWeights(self.k, self.t, site.groups, self.authors_filter_size),
            bias=site.kind == "token",
            norm=norm_for(site),
            bypass=table_bypass(site) if self.form == "table" else site.in_channels == site.out_channels,
        )

    def refuses(self, site: Site) -> str | None:
        if single_weight(site):
            return "a filter of one weight has no deviation: adabin's weights would be constants"
        return None

    def activation(self, site: ActivationSite) -> Callable[[], nn.Module] | None:
        if self.form == "table" and site.final_next:
            return None
        return partial(Maxout, site.channels, dim=site.dim, spatial=site.spatial)

    @property
    def drops_residual(self) -> bool:
        return self.residual == "drop" and self.form == "default"
