"""BiDense: Yin et al., Binarization for Dense Prediction, arXiv 2411.10346.

Forward: the DAB, exp(a (M - 1)) * sign(x - (k mean(x) + b)) (`binarize.functional.dab`);
mean(abs(w)) * sign(w) per filter.
Backward: A max(0, 2 - 2 abs(xs)) for activations, statistics detached; that of clamp(w, -1, 1) for weights.
Block: conv without bias -> BN -> + CFB(x) (`binarize.functional.channel_bypass`) -> RPReLU.
Linear layers on tokens: sign(x + move), weights sign(w - mean(w)) * mean(abs(w)) per row, bias,
LayerNorm(1e-6), + CFB over channels.
Filters of one weight stay float there: centred, they have no sign.
Departures: the paper's text has one `a` per layer, the authors' code and the printed parameter counts one per
channel: `granularity` offers both, and one per group of channels between them. "table" form: learnable bias
and PReLU as in Table 1's networks. Attention, of which the paper has none, is float, or by option that of BiT
(`binarize.methods.bit`): a sign without a scale would leave the range of what softmax sees to chance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, ClassVar, Literal

from torch import nn

from binarize.errors import ConfigError
from binarize.functional import CentredScaledSign, ScaledSign
from binarize.functional.dab import Granularity, Scale, Threshold
from binarize.layers import DAB, ApproxSignQuantizer, AttentionRecipe, LayerRecipe, Site, TokenSign
from binarize.layers.recipe import AttentionChoice, binary_attention
from binarize.methods.base import ActivationSite, Form, Method, register_method
from binarize.methods.bit import elastic_attention
from binarize.methods.parts import norm_for, rprelu, single_weight, table_prelu

ABLATIONS: dict[int, dict[str, Any]] = {
    0: {},
    1: {"binarizer": "sign"},
    2: {"bypass": "identity"},
    3: {"threshold": "none"},
    4: {"threshold": "b"},
    5: {"threshold": "mean"},
    6: {"scale": "none"},
    7: {"scale": "mad"},
    8: {"scale": "learned"},
}
"""The rows of Table 4, each as the one option that it changes."""


@register_method
@dataclass(frozen=True, kw_only=True)
class BiDense(Method):
    """Distribution-adaptive binarizer and channel-adaptive full-precision bypass.

    Attributes:
        form: `table` builds the network of Table 1.
        residual: `drop` removes the outer add around branches of bypassed layers.
        granularity: the DAB's scale per `channel`, per `layer`, or per `group` of neighbouring channels;
            `layer` is one XNOR-popcount, `group` one for each group.
        groups: how many groups there are at most, with granularity `group`: each is a multiple of 32
            channels, but for the last channels (`binarize.functional.dab.group_bounds`).
        binarizer: `dab`, or `sign` without threshold and scale.
        bypass: `cfb` (also `own`), or `identity` for a bypass only where shapes agree; others see
            `BypassChoice`.
        threshold: of the DAB: `adaptive` k mean(x) + b, `b`, `mean` (k mean(x)) or `none`.
        scale: of the DAB: `adaptive`, `mad`, `learned` or `none`.
        attention: `binary` makes attention that of BiT; `float` leaves it as it is.
        ablation: row 1 to 8 of Table 4; sets the one option of the above that the row changes.
    """

    name: ClassVar[str] = "bidense"
    paper: ClassVar[str] = "arXiv 2411.10346"
    year: ClassVar[int | None] = 2024
    own_bypasses: ClassVar[tuple[str, ...]] = ("cfb", "identity")

    form: Form = "default"
    residual: Literal["drop", "keep"] = "drop"
    granularity: Granularity = "channel"
    binarizer: Literal["dab", "sign"] = "dab"
    bypass: Literal["cfb", "own", "identity", "duplicate", "bisrnet", "none"] = "cfb"
    threshold: Threshold = "adaptive"
    scale: Scale = "adaptive"
    ablation: int = 0
    groups: int = 4
    attention: AttentionChoice = "float"

    def __post_init__(self) -> None:
        if self.bypass == "own":
            object.__setattr__(self, "bypass", "cfb")
        if self.groups < 1:
            raise ConfigError(f"bidense: groups={self.groups}, expected at least 1.")
        if self.ablation not in ABLATIONS:
            raise ConfigError(f"bidense: ablation={self.ablation}, expected a row of Table 4, 0 to 8.")
        defaults = {field.name: field.default for field in fields(self)}
        for name, value in ABLATIONS[self.ablation].items():
            given = getattr(self, name)
            if given not in (defaults[name], value):
                raise ConfigError(
                    f"bidense: ablation={self.ablation} means {name}={value!r}, "
                    f"but {name}={given!r} was given; leave one of the two out."
                )
            object.__setattr__(self, name, value)

    def recipe(self, site: Site) -> LayerRecipe:
        if site.kind == "token":
            return LayerRecipe(
                quantizer=partial(TokenSign, site.in_channels),
                weight_rule=CentredScaledSign(),
                bias=site.has_bias,
                norm=norm_for(site),
                bypass=self._bypasses(site),
            )
        return LayerRecipe(
            quantizer=ApproxSignQuantizer if self.binarizer == "sign" else self._dab(site),
            weight_rule=ScaledSign(),
            norm=norm_for(site),
            bypass=self._bypasses(site),
        )

    def attention_recipe(self) -> AttentionRecipe | None:
        return elastic_attention() if binary_attention(self) else None

    def refuses(self, site: Site) -> str | None:
        alone = site.kind == "token" and single_weight(site)
        return "a filter of one weight, centred, has no sign" if alone else None

    def activation(self, site: ActivationSite) -> Callable[[], nn.Module] | None:
        return table_prelu(site) if self.form == "table" else rprelu(site)

    @property
    def drops_residual(self) -> bool:
        return self.residual == "drop"

    @property
    def constant_remedy(self) -> str:
        if self.binarizer == "sign":
            return "binarizer=dab"
        return "threshold=adaptive" if self.threshold == "none" else ""

    def _bypasses(self, site: Site) -> bool:
        return self.bypass == "cfb" or site.keeps_shape

    def _dab(self, site: Site) -> Callable[[], nn.Module]:
        return partial(
            DAB,
            site.in_channels,
            self.granularity,
            threshold=self.threshold,
            scale=self.scale,
            dim=site.dim,
            spatial=site.spatial,
            groups=self.groups,
        )
