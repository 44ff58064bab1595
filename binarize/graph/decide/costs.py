"""What the layers cost that become binary, for methods that choose by it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from binarize.graph.decide.draft import Draft, SiteDraft
from binarize.graph.plan_sentences import Code, Statement, several
from binarize.layers import LayerCost


def note_costs(draft: Draft) -> None:
    """Let the method choose the layers that get its cheaper form (`Method.reduced`)."""
    sites = list(draft.sites.values())
    for place in draft.method.reduced([_cost(draft, site) for site in sites]):
        sites[place].context = {**sites[place].context, "reduced": True}


def cost_notes(draft: Draft) -> Iterator[Statement]:
    """The layers that were chosen."""
    if names := [site.name for site in draft.sites.values() if site.context.get("reduced")]:
        yield Statement(Code.REDUCED, draft.method.name, several("layer", names))


def _cost(draft: Draft, site: SiteDraft) -> LayerCost:
    seen, weights = site.site(), site.module.get_parameter("weight").numel()
    positions = 0
    for node in site.nodes:  # each weight is used once at each position of the map on the kernel's side
        shape = node.meta["input_shape"] if seen.transposed else draft.flow.shape(node)
        positions += math.prod(shape) // (seen.in_channels if seen.transposed else seen.out_channels)
    return LayerCost(positions * weights, weights)
