"""Which two values the activations of a layer are: by what it sees, once all in front of it is decided."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx, nn

from binarize.graph.draft import Draft, SiteDraft
from binarize.graph.intervals import ANYWHERE, Interval, of_module
from binarize.graph.roles import fused_activation
from binarize.graph.signs import Signs

_NAMED = 4  # layers of a warning


def decide_sets(draft: Draft) -> None:
    """Tell each converted layer which of its input channels hold nothing negative, in all of its calls."""
    signs = Signs(draft.flow, lambda node: _instead(draft, node))
    for site in draft.sites.values():
        seen = site.site()
        sources = [draft.flow.source(node) for node in site.nodes]
        found = {
            () if source is None else signs.nonnegative(source, seen.in_channels, seen.dim)
            for source in sources
        }
        if len(found) == 1:
            site.nonnegative = found.pop()
        if site.nonnegative and not draft.method.composes(seen):
            quantizer = quantizer_of(draft, site)
            site.values = getattr(quantizer, "values", "")
            site.blind = getattr(quantizer, "needs_negatives", False)


def quantizer_of(draft: Draft, site: SiteDraft) -> nn.Module:
    """The activation quantizer of a site, without data."""
    with torch.device("meta"):
        return site.recipe(draft.method).quantizer()


def blind_layers(draft: Draft) -> Iterator[str]:
    """Warnings about layers whose activations would be +1 everywhere, or on some of their channels."""
    blind = [site for site in draft.sites.values() if site.blind]
    whole = [site.name for site in blind if site.site().sees_no_negatives]
    parts = [site.name for site in blind if not site.site().sees_no_negatives]
    help_ = [
        *([draft.method.against_blindness] if draft.method.against_blindness else []),
        "keep such a layer in float (keep=)",
        "another method, whose thresholds are learnt (bidense, reactnet, adabin)",
        "or F.hardtanh in that function's place in the network, or by a forward hook on what makes the input",
    ]
    for names, what in ((whole, "see no negative value"), (parts, "see none on some of their channels")):
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            yield (
                f"warning: {', '.join(names[:_NAMED])}{more}: {what}, so that the sign is +1 there whatever "
                f"the image, and nothing is learnt from it. What helps: {'; '.join(help_)}"
            )


def _instead(draft: Draft, node: fx.Node) -> fx.Node | Interval | None:
    """What the plan puts in the place of a step: see `Signs`."""
    flow = draft.flow
    source = flow.source(node)
    edit = draft.edits.get((node.meta.get("owner", ""), node.meta.get("level") or ""))
    if edit is not None:
        kept = node.args[edit.keep if edit.action == "drop" else 0]
        return kept if edit.action in ("drop", "identity") and isinstance(kept, fx.Node) else ANYWHERE
    if node.op != "call_module" or source is None:
        return None
    if draft.site_at(node) is not None:
        return ANYWHERE
    swap = draft.swaps.get(str(node.target))
    if swap is None:
        return None
    if swap.to in ("identity", "drop_act"):
        return source
    if swap.to != "unfuse" or not swap.own:
        return ANYWHERE
    act = fused_activation(flow.modules[str(node.target)])
    return source if act is None else of_module(act, ANYWHERE)
