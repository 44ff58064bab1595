"""How a method sees an activation of the network: its channels, its neighbours, and what they would lose."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import fx, nn

from binarize.graph.decide.draft import Draft, SiteDraft
from binarize.graph.trace.dataflow import PASSIVE
from binarize.methods.base import ActivationSite

_TOWARDS_LAYERS = PASSIVE | {"pool", "pad", "split", "cat", "upsample", "mul", "add"}


def activation_site(
    draft: Draft, node: fx.Node, front: SiteDraft | None, behind: fx.Node | None
) -> ActivationSite | None:
    """How a method sees the activation at `node`; None if its channels are not known.

    Args:
        draft: the decisions so far.
        node: of the activation, or of the norm that holds it.
        front: the layer in front of it, if there is just one.
        behind: its only consumer, if there is just one.
    """
    flow = draft.flow
    shape, dim = flow.shape(node), flow.channel_dim.get(node)
    if dim is None or not 0 < dim < len(shape):
        return None
    last = dim == len(shape) - 1 and (dim != 1 or len(shape) == 2)
    if dim != 1 and not last:
        return None
    return ActivationSite(
        channels=shape[dim],
        dim=-1 if last else 1,
        spatial=0 if last else len(shape) - 2,
        spatial_between=front is not None and _spatial(front.module) and _next_is_spatial(draft, behind),
        final_next=_is_final(draft, node),
        removes_sign_information=draft.signs.low(node) >= 0 and any(_sees_one_sign(draft, node)),
    )


def _sees_one_sign(draft: Draft, node: fx.Node) -> Iterator[bool]:
    """For each layer behind an activation, whether it would turn all of the activation's results into +1."""
    for consumer in draft.flow.consumers(node, _TOWARDS_LAYERS):
        site = draft.site_at(consumer)
        if site is not None:
            seen = site.site()
            whole = dataclasses.replace(seen, nonnegative=((0, seen.in_channels),))
            if (
                whole not in draft.needs_negatives
            ):  # layers alike are many, and a quantizer takes a millisecond
                with torch.device("meta"):
                    quantizer = draft.method.recipe(whole).quantizer()
                draft.needs_negatives[whole] = getattr(quantizer, "needs_negatives", False)
            yield draft.needs_negatives[whole]


def _is_final(draft: Draft, node: fx.Node) -> bool:
    """Whether what follows `node` is a layer that stays float as the network's final one."""
    consumer = draft.flow.only_user(node, PASSIVE)
    if consumer is None or not draft.flow.is_layer(consumer) or draft.site_at(consumer) is not None:
        return False
    return draft.position.height(consumer) == 1


def _spatial(module: nn.Module) -> bool:
    return any(k > 1 for k in getattr(module, "kernel_size", ()))


def _next_is_spatial(draft: Draft, behind: fx.Node | None) -> bool:
    module = draft.flow.module(behind) if behind is not None and draft.flow.is_layer(behind) else None
    return module is not None and _spatial(module)
