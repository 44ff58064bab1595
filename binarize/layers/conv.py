"""Binary convolutions: float-layer arguments, method parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from binarize.conv_sizes import same_pads, static_same_pads
from binarize.functional import Geometry
from binarize.layers.base import BinaryLayer
from binarize.layers.bypass import Bypass, fit_of
from binarize.layers.recipe import LayerRecipe, MethodLike, Site, recipe_of_one, resolve, with_bypass_option

_TAKEN = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


def _site(conv: nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d) -> Site:
    return Site(
        kind="conv",
        in_channels=conv.in_channels,
        out_channels=conv.out_channels,
        kernel=tuple(conv.kernel_size),
        stride=tuple(conv.stride),
        groups=conv.groups,
        transposed=conv.transposed,
        has_bias=conv.bias is not None,
    )


class _BinaryConv(BinaryLayer):
    """Set-up and forward of the convolutions; a mixin, listed before nn.Conv1d or nn.Conv2d.

    y = inner(norm(conv(quantizer(x), weight_rule(weight)) + bias)) + bypass(x). Padding is applied to
    the quantized activations: a padded position is 0, neither of the two values.
    """

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: str | tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    padding_mode: str
    _pads: list[int] | None
    _explicit: tuple[tuple[int, int], ...] | None = None
    same_padding: bool
    _pads_vary: bool = True  # amounts of "same" padding depend on the size of the input

    def _set_up(self, recipe: LayerRecipe, site: Site, *, norm: bool, bypass: bool) -> None:
        if not recipe.bias:
            self.bias = None
        pads = self._static_pads()
        symmetric = all(low == high for low, high in pads)
        # Explicit padding of the quantized input, in F.pad's order, where the kernel cannot do it itself.
        explicit = self.padding_mode != "zeros" or not symmetric
        self._pads = [p for pair in reversed(pads) for p in pair] if explicit else None
        self.same_padding = False
        padding = (0,) * len(pads) if explicit else tuple(low for low, _ in pads)
        self._geometry = Geometry(self.stride, padding, self.dilation, self.groups)
        shortcut = None
        if bypass and recipe.bypass:
            fit = fit_of(self.kernel_size, self.stride, [low for low, _ in pads], self.dilation)
            shortcut = Bypass(
                self.in_channels, self.out_channels, stride=self.stride, fit=fit if symmetric else "crop"
            )
        self._assemble(recipe, site, norm=norm, bypass=shortcut)

    def _static_pads(self) -> list[tuple[int, int]]:
        if self._explicit is not None:
            return list(self._explicit)
        if self.padding == "valid":
            return [(0, 0)] * len(self.kernel_size)
        if self.padding == "same":
            return list(static_same_pads(self.kernel_size, self.dilation))
        return [(int(p), int(p)) for p in self.padding]

    def use_same_padding(self) -> None:
        """Pad as TensorFlow's "SAME" does, by the size of the input (timm's Conv2dSame)."""
        self.same_padding = True
        self._pads = None
        pads = static_same_pads(self.kernel_size, self.dilation)
        self._pads_vary = any(s > 1 for s in self.stride) or any(low != high for low, high in pads)
        padding = tuple(0 if self._pads_vary else low for low, _ in pads)
        self._geometry = Geometry(self.stride, padding, self.dilation, self.groups)
        if self.bypass is not None:
            self.bypass.fit = "ceil"

    def use_padding(self, pads: Sequence[tuple[int, int]], mode: PaddingMode = "zeros") -> None:
        """Pad by these amounts, whatever `padding` says: low and high side per spatial dim."""
        self._explicit = tuple(pads)
        self.padding_mode = mode
        self._pads = [side for pair in reversed(self._explicit) for side in pair]
        self._geometry = Geometry(self.stride, (0,) * len(self.stride), self.dilation, self.groups)
        if self.bypass is not None:
            self.bypass.fit = fit_of(self.kernel_size, self.stride, self._explicit, self.dilation)

    def _pads_for(self, x: Tensor) -> list[int] | None:
        if not self.same_padding or not self._pads_vary:
            return self._pads
        pads = same_pads(x.shape[2:], self.kernel_size, self.stride, self.dilation)
        return [side for pair in reversed(pads) for side in pair]

    def forward(self, input: Tensor) -> Tensor:
        """(N, Cin, ...) -> (N, Cout, ...); dtype of the input."""
        pads = self._pads_for(input)
        if pads is None:
            return self._finish(self._dense(input, self._geometry), input)
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        padded = F.pad(self.quantizer(input), pads, mode=mode)
        return self._finish(self._dense(padded, self._geometry, quantized=True), input)


class BinaryConv1d(_BinaryConv, nn.Conv1d):
    """A binary nn.Conv1d, of (N, Cin, L).

    Args:
        in_channels: Cin.
        out_channels: Cout.
        kernel_size: as nn.Conv1d.
        stride: as nn.Conv1d.
        padding: as nn.Conv1d; zeros are padded behind the quantizer.
        dilation: as nn.Conv1d.
        groups: as nn.Conv1d.
        bias: see `BinaryConv2d`, as are those that follow.
        padding_mode: as nn.Conv1d.
        method: name or method object.
        norm: False leaves the method's normalization out.
        bypass: False leaves the method's bypass out; a text is the method's option of that name.
        **options: of the method, if it is given by name.

    Raises:
        ConfigError: as `BinaryConv2d`.
    """

    _float_class = nn.Conv1d
    _taken = (*_TAKEN, "padding_mode")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int],
        stride: int | tuple[int] = 1,
        padding: int | tuple[int] | str = 0,
        dilation: int | tuple[int] = 1,
        groups: int = 1,
        bias: bool = False,
        padding_mode: PaddingMode = "zeros",
        *,
        method: str | MethodLike = "bidense",
        norm: bool = True,
        bypass: bool | str = True,
        **options: Any,
    ) -> None:
        nn.Conv1d.__init__(
            self,
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
        )
        site = _site(self)
        bypass, options = with_bypass_option(bypass, options)
        recipe = recipe_of_one(self, resolve(method, options), site, bypass)
        self._set_up(recipe, site, norm=norm, bypass=bypass)


class BinaryConv2d(_BinaryConv, nn.Conv2d):
    """A binary nn.Conv2d with everything its method puts around it.

    Args:
        in_channels: Cin.
        out_channels: Cout.
        kernel_size: as nn.Conv2d.
        stride: as nn.Conv2d.
        padding: as nn.Conv2d; zeros are padded behind the quantizer.
        dilation: as nn.Conv2d.
        groups: as nn.Conv2d.
        bias: have a bias; a method without a bias there drops it.
        padding_mode: as nn.Conv2d.
        method: name or method object.
        norm: False leaves the method's normalization out.
        bypass: False leaves the method's bypass out; a text is the method's option of that name.
        **options: of the method, if it is given by name.

    Raises:
        ConfigError: for an unknown method or option, or a bypass that needs several layers.
    """

    _float_class = nn.Conv2d
    _taken = (*_TAKEN, "padding_mode")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = False,
        padding_mode: PaddingMode = "zeros",
        *,
        method: str | MethodLike = "bidense",
        norm: bool = True,
        bypass: bool | str = True,
        **options: Any,
    ) -> None:
        nn.Conv2d.__init__(
            self,
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
        )
        site = _site(self)
        bypass, options = with_bypass_option(bypass, options)
        recipe = recipe_of_one(self, resolve(method, options), site, bypass)
        self._set_up(recipe, site, norm=norm, bypass=bypass)


class BinaryConvTranspose2d(BinaryLayer, nn.ConvTranspose2d):
    """A binary nn.ConvTranspose2d; its bypass upsamples to the output size, nearest neighbour.

    Args:
        in_channels: Cin.
        out_channels: Cout.
        kernel_size: as nn.ConvTranspose2d.
        stride: as nn.ConvTranspose2d.
        padding: as nn.ConvTranspose2d, with zeros only.
        output_padding: as nn.ConvTranspose2d.
        groups: as nn.ConvTranspose2d.
        bias: see `BinaryConv2d`, as are those that follow.
        dilation: as nn.ConvTranspose2d.
        method: name or method object.
        norm: False leaves the method's normalization out.
        bypass: False leaves the method's bypass out; a text is the method's option of that name.
        **options: of the method, if it is given by name.

    Raises:
        ConfigError: as `BinaryConv2d`.
    """

    _float_class = nn.ConvTranspose2d
    _taken = (*_TAKEN, "output_padding")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        output_padding: int | tuple[int, int] = 0,
        groups: int = 1,
        bias: bool = False,
        dilation: int | tuple[int, int] = 1,
        *,
        method: str | MethodLike = "bidense",
        norm: bool = True,
        bypass: bool | str = True,
        **options: Any,
    ) -> None:
        nn.ConvTranspose2d.__init__(
            self,
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            output_padding,
            groups,
            bias,
            dilation,
        )
        site = _site(self)
        bypass, options = with_bypass_option(bypass, options)
        recipe = recipe_of_one(self, resolve(method, options), site, bypass)
        self._set_up(recipe, site, norm=norm, bypass=bypass)

    def _set_up(self, recipe: LayerRecipe, site: Site, *, norm: bool, bypass: bool) -> None:
        if not recipe.bias:
            self.bias = None
        shortcut = None
        if bypass and recipe.bypass:
            stride: Any = self.stride
            shortcut = Bypass(self.in_channels, self.out_channels, stride=tuple(stride), transposed=True)
        self._assemble(recipe, site, norm=norm, bypass=shortcut)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(N, Cin, H, W) -> (N, Cout, H', W'); `output_size` as in nn.ConvTranspose2d."""
        conv: Any = self  # torch's own annotations of these attributes are looser than what they hold
        extra = self.output_padding
        if output_size is not None:
            sizes = (conv.stride, conv.padding, conv.kernel_size)
            extra = self._output_padding(input, output_size, *sizes, 2, conv.dilation)
        geometry = Geometry(conv.stride, conv.padding, conv.dilation, self.groups, True, tuple(extra))
        return self._finish(self._dense(input, geometry), input)
