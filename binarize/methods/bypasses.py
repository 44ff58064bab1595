"""The bypass as the engine's own choice: any method with any bypass, by the option `bypass`."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from binarize.layers.recipe import Site, chosen_bypass
from binarize.methods.base import Method
from binarize.methods.bisrnet import changes_by_units, units_of


def is_parallel(method: Method) -> bool:
    """Whether every layer of the method consists of several binary layers side by side."""
    return bool(getattr(method, "parallel", False))


def composes(method: Method, site: Site) -> bool:
    """Whether the layer at `site` is built from several binary layers: by the method, or as BiSRNet does."""
    choice = chosen_bypass(method)
    if choice == "own" or is_parallel(method):
        return method.composes(site)
    return choice == "bisrnet" and changes_by_units(site) and method.refuses(_unit(site)) is None


def has_units(method: Method, site: Site) -> bool:
    """Whether the layer at `site` is built from units, each with a bypass of its own."""
    return composes(method, site) and not is_parallel(method)


def compose(
    method: Method, site: Site, weight: nn.Parameter, *, norm: bool, bypass: bool, **geometry: Any
) -> nn.Module | None:
    """A module of several binary layers for `site`, or None where one layer is enough.

    Args:
        method: the method.
        site: of the layer.
        weight: latent weights.
        norm: False leaves the method's normalization out.
        bypass: False leaves the bypass out: units, which are one, become a single layer.
        **geometry: see `Method.compose`.
    """
    if is_parallel(method):
        return method.compose(site, weight, norm=norm, bypass=bypass, **geometry)
    if not bypass:
        return None
    if chosen_bypass(method) == "own":
        return method.compose(site, weight, **geometry)
    return units_of(method, site, weight, **geometry) if composes(method, site) else None


def follows_recipe(method: Method, site: Site) -> bool:
    """Whether the quantizers of the layer at `site`, or of its units, are those of the method's recipe."""
    return chosen_bypass(method) != "own" or is_parallel(method) or not method.composes(site)


def drops_residual(method: Method) -> bool:
    """Whether the outer add around a branch of bypassed layers is removed."""
    if chosen_bypass(method) == "own":
        return method.drops_residual
    return getattr(method, "residual", "drop") == "drop"


def _unit(site: Site) -> Site:
    channels = min(site.in_channels, site.out_channels)
    strides = (1,) * site.spatial
    return dataclasses.replace(
        site, in_channels=channels, out_channels=channels, stride=strides, transposed=False
    )
