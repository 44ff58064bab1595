"""BNN: Hubara et al., Binarized Neural Networks, arXiv 1602.02830.

Forward: sign(x), sign(w), no scale. Backward: 1 for abs(.) <= 1, else 0, for both.
On input channels without negative values (behind a ReLU) sign is +1 everywhere and no signal is left. There
activations are 1 where x > 0, else 0, with the same backward: what torch.sign, 0 at 0, gives on such values.
Block: conv -> BN -> the network's own activation. No bypass but the network's own residual connections.
Departures: the BNN paper has a hard tanh in place of each activation (option `nonlinearity`). In the "table"
form (the networks of BiDense's Table 1) shape-keeping spatial convolutions that no activation follows have an
identity bypass. Linear layers on tokens have a LayerNorm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from torch import nn

from binarize.functional import SteSign
from binarize.layers import LayerRecipe, SignSTE, Site, StepSTE
from binarize.methods.base import ActivationSite, Form, Method, register_method
from binarize.methods.parts import norm_for, table_bypass


@register_method
@dataclass(frozen=True, kw_only=True)
class BNN(Method):
    """sign of activations and weights, BatchNorm, the network's own activation and residuals.

    Attributes:
        form: `table` builds the networks of Table 1 of BiDense.
        nonlinearity: `auto` keeps the network's activations, binary activations being {0, 1} where no value
            is negative; `hardtanh` replaces them as in the BNN paper; `own` keeps them and takes the sign
            everywhere, +1 behind a ReLU.
    """

    name: ClassVar[str] = "bnn"
    paper: ClassVar[str] = "arXiv 1602.02830"
    year: ClassVar[int | None] = 2016

    form: Form = "default"
    nonlinearity: Literal["auto", "own", "hardtanh"] = "auto"

    def recipe(self, site: Site) -> LayerRecipe:
        return LayerRecipe(
            quantizer=self._quantizer(site),
            weight_rule=SteSign(),
            bias=site.has_bias,
            norm=norm_for(site),
            bypass=self.form == "table" and table_bypass(site),
        )

    def activation(self, site: ActivationSite) -> Callable[[], nn.Module] | None:
        # Plans of the first version: `auto` put a hard tanh in a ReLU's place then. It is not needed today.
        no_sign = self.nonlinearity == "auto" and site.removes_sign_information and self.form == "default"
        return nn.Hardtanh if no_sign or self.nonlinearity == "hardtanh" else None

    @property
    def constant_remedy(self) -> str:
        return "nonlinearity=auto" if self.nonlinearity == "own" else ""

    def _quantizer(self, site: Site) -> Callable[[], nn.Module]:
        if self.nonlinearity == "own" or not site.nonnegative:
            return SignSTE
        return StepSTE if site.sees_no_negatives else partial(StepSTE, site.nonnegative, dim=site.dim)
