"""Choices that several methods share: the table form's bypass and activations, parts for tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from binarize.layers import BiasPReLU, RPReLU
from binarize.layers.recipe import NormKind, Site
from binarize.methods.base import ActivationSite


def norm_for(site: Site) -> NormKind:
    """BatchNorm; LayerNorm on tokens, where a batch of one vector has no variance."""
    return "layer" if site.kind == "token" else "batch"


def table_bypass(site: Site) -> bool:
    """The identity bypass of Table 1's baselines: x + BN(dw(x)) and x + smooth(x).

    That is: around convolutions of kernel > 1 that keep the shape and that no activation follows.
    """
    return site.keeps_shape and any(k > 1 for k in site.kernel) and not site.activated


def filter_shape(site: Site) -> tuple[int, ...]:
    """The shape of one number per output filter, as weight rules see it: (Cout, 1, ...)."""
    return (site.out_channels, 1, *(1,) * site.spatial)


def single_weight(site: Site) -> bool:
    """Whether a filter has one weight only: it has no deviation, and centred it is nothing."""
    weights = site.in_channels // site.groups
    for size in site.kernel:
        weights *= size
    return weights == 1


def rprelu(site: ActivationSite) -> Callable[[], nn.Module]:
    """RPReLU for this place."""
    return partial(RPReLU, site.channels, dim=site.dim, spatial=site.spatial)


def table_prelu(site: ActivationSite) -> Callable[[], nn.Module] | None:
    """Table 1's activation: learnable bias and PReLU, one more bias between two spatial convolutions.

    The last activation, in front of the float classifier, stays the network's own.
    """
    if site.final_next:
        return None
    if site.spatial_between:
        return rprelu(site)
    return partial(BiasPReLU, site.channels, dim=site.dim, spatial=site.spatial)
