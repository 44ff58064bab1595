"""BNN: Hubara et al., Binarized Neural Networks, arXiv 1602.02830.

Forward: sign(x), sign(w), no scale. Backward: 1 for abs(.) <= 1, else 0, for both.
Block: conv -> BN -> the network's own activation. No bypass but the network's own residual connections.
Departures: behind a ReLU sign is +1 everywhere, no signal is left, and BatchNorm divides by no variance;
there the BNN paper's own hard tanh stands in for the ReLU (option `nonlinearity`). In the "table" form (the
networks of BiDense's Table 1) ReLU stays, and shape-keeping spatial convolutions that no activation follows
have an identity bypass. Linear layers on tokens bring a LayerNorm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from binarize.functional import SteSign
from binarize.layers import Recipe, SignSTE, Site
from binarize.methods.base import ActivationSite, Form, Method, register_method
from binarize.methods.parts import norm_for, table_bypass


@register_method
@dataclass(frozen=True, kw_only=True)
class BNN(Method):
    """sign of activations and weights, BatchNorm, the network's own activation and residuals.

    Attributes:
        form: `table` builds the networks of Table 1 of BiDense.
        nonlinearity: `own` keeps the network's activations; `hardtanh` replaces them as in the BNN paper;
            `auto` keeps them but where a ReLU would blind a binary layer (never in the table form).
    """

    name: ClassVar[str] = "bnn"
    paper: ClassVar[str] = "arXiv 1602.02830"

    form: Form = "default"
    nonlinearity: Literal["auto", "own", "hardtanh"] = "auto"

    def recipe(self, site: Site) -> Recipe:
        return Recipe(
            quantizer=SignSTE,
            weight_rule=SteSign(),
            bias=site.has_bias,
            norm=norm_for(site),
            bypass=self.form == "table" and table_bypass(site),
        )

    def activation(self, site: ActivationSite) -> Callable[[], nn.Module] | None:
        blinded = self.nonlinearity == "auto" and site.blinds and self.form == "default"
        return nn.Hardtanh if blinded or self.nonlinearity == "hardtanh" else None
