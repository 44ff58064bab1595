"""BiSRNet: Cai et al., Binarized Spectral Compressive Imaging, arXiv 2305.10299.

Forward: sign(z), z = k x + b per channel; mean(abs(w)) * sign(w) per filter.
Backward: that of tanh(beta z), beta per layer; that of clamp(w, -1, 1) for weights.
Unit: y = RPReLU(conv(.)) + x with Cin = Cout and no BatchNorm. Channel changes are built from units:
increase: r units, concatenated; decrease: split in r, a unit each, mean. At a stride the input is
average-pooled first, in front of a transposed convolution it is upsampled bilinearly.
Departures: the paper has r = 2 only. Where units cannot be used (a ratio that is not whole, groups that
change channels): conv -> BN without bypass. "table" form as in BiDense's Table 1: units only at transitions
(stride 2, channels doubled), conv -> BN elsewhere. An even kernel becomes 3x3, its mean the first centre.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binarize.conv_sizes import transposed_size
from binarize.errors import ConfigError
from binarize.functional import ScaledSign
from binarize.layers import (
    BinaryConv2d,
    BinaryLinear,
    LayerRecipe,
    Redistribution,
    RPReLU,
    Site,
    StandsForLayer,
)
from binarize.layers.recipe import has_unit_shape, recipe_of
from binarize.methods.base import ActivationSite, Form, Method, register_method
from binarize.methods.parts import norm_for, rprelu, table_bypass, table_prelu


class BiSRUnits(StandsForLayer):
    """Units side by side: resample, then concatenate (channels grow), average (they shrink) or apply one.

    Args:
        units: each keeps its channels; as many as the ratio of output to input channels, or its inverse.
        grows: concatenate the units' outputs instead of averaging those of the input's parts.
        dim: channel dimension.
        pool: kernel and stride of the average pooling in front; empty for none.
        ceil: of the pooling's output size.
        up: factor of the bilinear upsampling in front.
    """

    def __init__(
        self,
        units: Sequence[nn.Module],
        *,
        grows: bool,
        dim: int,
        pool: tuple[int, ...] = (),
        ceil: bool = False,
        up: int = 1,
    ) -> None:
        super().__init__()
        self.units = nn.ModuleList(units)
        self.grows = grows
        self.dim = dim
        self.pool = pool
        self.ceil = ceil
        self.up = up

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """(N, Cin, H, W) -> (N, Cout, H', W'), or channels last; `output_size` as in nn.ConvTranspose2d."""
        x = input
        if self.pool:
            x = F.avg_pool2d(x, self.pool, self.pool, ceil_mode=self.ceil)
        if output_size is not None:
            x = F.interpolate(x, size=self._size(x, output_size), mode="bilinear", align_corners=False)
        elif self.up > 1:
            x = F.interpolate(x, scale_factor=self.up, mode="bilinear", align_corners=False)
        if self.grows:
            return torch.cat([unit(x) for unit in self.units], self.dim)
        parts = x.chunk(len(self.units), self.dim)
        outputs = [unit(part) for unit, part in zip(self.units, parts, strict=True)]
        return torch.stack(outputs).mean(0)

    def _size(self, x: Tensor, wanted: Sequence[int]) -> list[int]:
        """The last two of the requested sizes, if a transposed convolution could give them."""
        known: Any = self  # with the geometry of the float layer
        size = [int(n) for n in wanted][-2:]
        pads = tuple((p, p) for p in known.padding)
        least = [*transposed_size(x.shape[2:], known.kernel_size, known.stride, pads, known.dilation, (0, 0))]
        most = [low + s - 1 for low, s in zip(least, known.stride, strict=True)]
        if len(size) != 2 or any(not a <= n <= b for a, n, b in zip(least, size, most, strict=True)):
            raise ConfigError(f"output_size={list(wanted)}: expected sizes from {least} to {most}.")
        return size


@register_method
@dataclass(frozen=True, kw_only=True)
class BiSRNet(Method):
    """Redistributed activations, tanh surrogate, units RPReLU(conv(.)) + x without BatchNorm.

    Attributes:
        form: `table` builds the networks of Table 1 of BiDense.
        residual: `drop` removes the outer add around branches of bypassed layers.
    """

    name: ClassVar[str] = "bisrnet"
    paper: ClassVar[str] = "arXiv 2305.10299"
    year: ClassVar[int | None] = 2023

    form: Form = "default"
    residual: Literal["drop", "keep"] = "drop"

    def recipe(self, site: Site) -> LayerRecipe:
        unit = self.form == "default" and site.kind != "token" and site.keeps_shape
        channels = site.out_channels
        return LayerRecipe(
            quantizer=partial(Redistribution, site.in_channels, dim=site.dim, spatial=site.spatial),
            weight_rule=ScaledSign(),
            bias=site.kind == "token",
            norm="none" if unit else norm_for(site),
            inner=partial(RPReLU, channels, dim=site.dim, spatial=site.spatial) if unit else None,
            bypass=unit or (table_bypass(site) if self.form == "table" else site.keeps_shape),
        )

    def activation(self, site: ActivationSite) -> Callable[[], nn.Module] | None:
        return table_prelu(site) if self.form == "table" else rprelu(site)

    @property
    def drops_residual(self) -> bool:
        return self.residual == "drop" and self.form == "default"

    def composes(self, site: Site) -> bool:
        transition = (
            site.stride == (2, 2) and site.out_channels == 2 * site.in_channels and not site.transposed
        )
        return changes_by_units(site) and (self.form == "default" or transition)

    def compose(self, site: Site, weight: nn.Parameter, **geometry: Any) -> nn.Module | None:
        return units_of(BiSRNet(), site, weight, **geometry) if self.composes(site) else None


def changes_by_units(site: Site) -> bool:
    """Whether a layer that changes its input's shape can be built from units."""
    return has_unit_shape(site) and not (site.kind == "conv" and site.fit == "crop")


def units_of(method: Method, site: Site, weight: nn.Parameter, **geometry: Any) -> nn.Module:
    """The layer at `site`, for which `changes_by_units` holds, from units by this method.

    Args:
        method: of which a convolution that keeps its shape is a unit.
        site: of the layer.
        weight: latent weights; each unit takes a part of them.
        **geometry: `dilation`.
    """
    grows = site.out_channels >= site.in_channels
    count = max(site.in_channels, site.out_channels) // min(site.in_channels, site.out_channels)
    stride = site.stride[0] if site.stride else 1
    latent = weight.detach()
    if site.transposed:  # (Cin, Cout, ...), spatially flipped against a convolution's kernel
        latent = latent.transpose(0, 1).flip(*range(2, latent.dim()))
    pieces = latent.chunk(count, 0 if grows else 1)
    units: list[nn.Module] = []
    for number, piece in enumerate(pieces):
        channels = piece.shape[0]
        part = _UnitMethod(method, _part(site.nonnegative, 0 if grows else number * channels, channels))
        if site.kind == "pointwise":
            unit: Any = BinaryLinear(channels, channels, False, kind="pointwise", method=part)
        else:
            piece = _odd_kernel(piece)
            dilation = geometry.get("dilation", (1, 1)) if stride == 1 and not site.transposed else (1, 1)
            padding = tuple(d * (k - 1) // 2 for d, k in zip(dilation, piece.shape[2:], strict=True))
            unit = BinaryConv2d(
                channels,
                channels,
                (piece.shape[2], piece.shape[3]),
                padding=(padding[0], padding[1]),
                dilation=dilation,
                method=part,
            )
        # contiguous, as when read from a file: the rounding of convolutions depends on the memory order
        latent_piece = piece.clone(memory_format=torch.contiguous_format)
        unit.weight = nn.Parameter(latent_piece, requires_grad=weight.requires_grad)
        unit._start_weight_state()
        units.append(unit)
    pool = site.stride if stride > 1 and not site.transposed else ()
    up = stride if site.transposed else 1
    return BiSRUnits(units, grows=grows, dim=site.dim, pool=pool, ceil=site.fit == "ceil", up=up)


@dataclass(frozen=True)
class _UnitMethod:
    """A method for a unit that knows its nonnegative input channels; pooling and upsampling keep them."""

    method: Method
    nonnegative: tuple[tuple[int, int], ...]

    def recipe(self, site: Site) -> LayerRecipe:
        """See `Method`."""
        return recipe_of(self.method, replace(site, nonnegative=self.nonnegative))


def _part(ranges: tuple[tuple[int, int], ...], start: int, channels: int) -> tuple[tuple[int, int], ...]:
    """Ranges of channels [start, stop) relative to a unit that gets `channels` of them from `start` on."""
    inside = ((max(low - start, 0), min(high - start, channels)) for low, high in ranges)
    return tuple((low, high) for low, high in inside if low < high)


def _odd_kernel(weight: Tensor) -> Tensor:
    """(Cout, Cin, h, w) with odd h and w; an even kernel becomes 3x3 around the mean of its weights.

    Behind an average pooling, that mean is what the even kernel saw of a constant patch; the rest starts
    from N(0, 1e-3) as latent weights without a float model do.
    """
    if all(k % 2 for k in weight.shape[2:]):
        return weight
    grown = torch.empty(*weight.shape[:2], 3, 3, device="meta" if weight.is_meta else "cpu").normal_(0, 1e-3)
    grown = grown.to(weight.device, weight.dtype)  # the same numbers on every device
    grown[:, :, 1, 1] = weight.mean((2, 3))
    return grown
