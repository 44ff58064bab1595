"""Binary linear layers, on tokens or as pointwise convolutions of channels-last maps."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from binarize.layers.base import BinaryLayer
from binarize.layers.bypass import Bypass
from binarize.layers.recipe import LayerRecipe, MethodLike, Site, recipe_of_one, resolve, with_bypass_option


class BinaryLinear(BinaryLayer, nn.Linear):
    """A binary nn.Linear with everything its method puts around it.

    Args:
        in_features: Cin.
        out_features: Cout.
        bias: have a bias; a method without a bias there drops it.
        kind: `token` for (N, L, C) and (N, C); `pointwise` for maps (N, H, W, C), where the method's
            convolution parts are used with the channel in the last dim.
        method: name or method object.
        norm: False leaves the method's normalization out.
        bypass: False leaves the method's bypass out; a text is the method's option of that name.
        **options: of the method, if it is given by name.

    Raises:
        ConfigError: for an unknown method or option, or a bypass that needs several layers.
    """

    _float_class = nn.Linear
    _taken = ("in_features", "out_features")

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        kind: Literal["token", "pointwise"] = "token",
        method: str | MethodLike = "bidense",
        norm: bool = True,
        bypass: bool | str = True,
        **options: Any,
    ) -> None:
        nn.Linear.__init__(self, in_features, out_features, bias)
        site = Site(kind=kind, in_channels=in_features, out_channels=out_features, has_bias=bias)
        bypass, options = with_bypass_option(bypass, options)
        recipe = recipe_of_one(self, resolve(method, options), site, bypass)
        self._set_up(recipe, site, norm=norm, bypass=bypass)

    def _set_up(self, recipe: LayerRecipe, site: Site, *, norm: bool, bypass: bool) -> None:
        if not recipe.bias:
            self.bias = None
        shortcut = Bypass(self.in_features, self.out_features, dim=-1) if bypass and recipe.bypass else None
        self._assemble(recipe, site, norm=norm, bypass=shortcut)
        self.kind = "token" if site.kind == "token" else "pointwise"

    def forward(self, input: Tensor) -> Tensor:
        """(..., Cin) -> (..., Cout)."""
        return self._finish(self._dense(input, None), input)
