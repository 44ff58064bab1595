"""One float layer as several binary layers side by side, whose results are added up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binarize.conv_sizes import Pads, same_pads
from binarize.errors import ConfigError
from binarize.functional import sign
from binarize.functional.weights import mean_magnitude
from binarize.layers import (
    BinaryConv1d,
    BinaryConv2d,
    BinaryConvTranspose2d,
    BinaryLayer,
    BinaryLinear,
    Bypass,
    LayerRecipe,
    Site,
    StandsForLayer,
)
from binarize.layers.base import Padding


class ParallelSum(StandsForLayer):
    """y = norm(sum of branches(pad(x))) + bypass(x).

    Args:
        branches: binary layers of one input and one output shape.
        padding: what each branch gets in front of its quantizer, or None.
        norm: behind the sum, or None.
        bypass: around it, or None.
    """

    def __init__(
        self,
        branches: Sequence[BinaryLayer],
        padding: Sequence[Padding | None],
        *,
        norm: nn.Module | None = None,
        bypass: Bypass | None = None,
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.norm = norm
        self.bypass = bypass
        self._padding = tuple(padding)

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """(N, Cin, ...) -> (N, Cout, ...), or channels last; `output_size` as in nn.ConvTranspose2d."""
        given = () if output_size is None else (output_size,)
        padded: dict[Padding | None, Tensor] = {None: input}
        total: Any = None
        for branch, padding in zip(self.branches, self._padding, strict=True):
            if padding is None or padding not in padded:
                padded[padding] = input if padding is None else _padded(input, padding, branch)
            y = branch(padded[padding], *given)
            if total is not None:
                y = total + y
            elif self.norm is None:  # first of all: packed layers add up to what those before them gave
                y = self._bypassed(input, y)
            total = y
        return total if self.norm is None else self._bypassed(input, self.norm(total))

    def _bypassed(self, x: Tensor, y: Tensor) -> Tensor:
        return y if self.bypass is None else self.bypass(x, y.shape[2:], y)


def _padded(x: Tensor, padding: Padding, branch: Any) -> Tensor:
    pads = padding.pads
    if padding.same:
        pads = same_pads(x.shape[2:], branch.kernel_size, branch.stride, branch.dilation)
    mode = "constant" if padding.mode == "zeros" else padding.mode
    return F.pad(x, [side for pair in reversed(pads) for side in pair], mode=mode)


def binary_branch(
    site: Site,
    recipe: LayerRecipe,
    weight: Tensor,
    *,
    dilation: tuple[int, ...],
    output_padding: tuple[int, ...],
    padding: Padding | None,
    trained: bool,
) -> BinaryLayer:
    """One binary layer for `site`, without bypass and bias.

    Args:
        site: of the float layer.
        recipe: the parts.
        weight: its latent weights, in the float layer's shape.
        dilation: one number per spatial dim.
        output_padding: of a transposed convolution.
        padding: behind the quantizer; None for a layer whose input is padded already.
        trained: whether the weights take a gradient.
    """
    bare = replace(site, has_bias=False)
    # contiguous, as when read from a file: the rounding of convolutions depends on the memory order
    latent = nn.Parameter(weight.clone(memory_format=torch.contiguous_format), requires_grad=trained)
    channels, size = (site.in_channels, site.out_channels), cast(Any, site.kernel)
    with torch.device("meta"):  # no start values are needed
        if site.kind != "conv":
            layer: nn.Module = nn.Linear(*channels, bias=False)
            kind: type[BinaryLayer] = BinaryLinear
        else:
            given: Any = {"stride": site.stride, "dilation": dilation, "groups": site.groups, "bias": False}
            if site.transposed:
                pads = padding.pads if padding is not None else ()
                given |= {"padding": tuple(low for low, _ in pads), "output_padding": output_padding}
                layer, kind = nn.ConvTranspose2d(*channels, size, **given), BinaryConvTranspose2d
            elif site.spatial == 1:
                layer, kind = nn.Conv1d(*channels, size, **given), BinaryConv1d
            else:
                layer, kind = nn.Conv2d(*channels, size, **given), BinaryConv2d
    layer.weight = latent
    own = padding if site.kind == "conv" and not site.transposed else None
    if own is not None and _is_plain(own):
        known: Any = layer  # amounts that a convolution's own argument can express
        known.padding, own = tuple(low for low, _ in own.pads), None
    return kind.from_float(layer, replace(recipe, bypass=False), bare, explicit_padding=own)


def remainders(weight: Tensor, count: int, *, per_filter: bool) -> tuple[list[Tensor], Tensor]:
    """Latent weights of several layers that together replace one: each gets the rest that those before left.

    w_0 = w, w_k+1 = w_k - mean(abs(w_k)) sign(w_k). Where nothing is left, they start from N(0, 1e-3), as
    latent weights without a float model do.

    Args:
        weight: (Cout, Cin / groups, ...); w.
        count: of the layers.
        per_filter: means are those of each filter, not of the whole layer.

    Returns:
        The latent weights, detached, and the mean of their magnitudes, (count,).
    """
    rest, latents = weight.detach(), []
    for _ in range(count):
        latents.append(rest)
        size = mean_magnitude(rest) if per_filter else rest.abs().mean()
        rest = rest - sign(rest, size)
    magnitudes = torch.stack([latent.abs().mean() for latent in latents])
    if not weight.is_meta:
        least = magnitudes[0] * torch.finfo(weight.dtype).eps * 16
        for number in range(count):
            if not magnitudes[number] > least:
                drawn = torch.empty(weight.shape).normal_(0, 1e-3)  # the same numbers on every device
                latents[number] = drawn.to(weight.device, weight.dtype)
                magnitudes[number] = latents[number].abs().mean()
    return latents, magnitudes


def refuse_units(method: Any) -> None:
    """Refuse the option `bypass="bisrnet"`.

    Raises:
        ConfigError: naming what can be chosen.
    """
    if method.bypass == "bisrnet":
        raise ConfigError(
            f"{method.name}: bypass='bisrnet' builds layers from units of one binary layer each, "
            f"{method.name} has several in each: choose own, cfb, identity, duplicate or none."
        )


def _is_plain(padding: Padding) -> bool:
    return not padding.same and padding.mode == "zeros" and all(low == high for low, high in padding.pads)


def bypass_for(site: Site) -> Bypass:
    """The bypass around the layer at `site`."""
    channels = (site.in_channels, site.out_channels)
    if site.kind != "conv":
        return Bypass(*channels, dim=-1)
    if site.transposed:
        return Bypass(*channels, stride=site.stride, transposed=True)
    return Bypass(*channels, stride=site.stride, fit=site.fit)  # type: ignore[arg-type] - one of the three


def widened(pads: Pads, kernel: Sequence[int], more: int) -> Pads:
    """Pads for a dilation that is larger by `more`: the output keeps its size if the kernel is odd."""
    return tuple(
        (low + more * (k // 2), high + more * (k // 2)) for (low, high), k in zip(pads, kernel, strict=True)
    )
