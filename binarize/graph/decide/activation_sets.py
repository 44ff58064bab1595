"""The two values of a layer's binary activations, by its input, after all decisions in front of it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx, nn

from binarize.errors import listed
from binarize.graph.decide.draft import Draft, SiteDraft
from binarize.graph.decide.intervals import ANYWHERE, Interval, of_module
from binarize.graph.decide.signs import Ranges, Signs
from binarize.graph.plan import Swap
from binarize.graph.plan_sentences import Code, Statement
from binarize.graph.trace.roles import fused_activation
from binarize.methods.base import ActivationSite
from binarize.methods.bypasses import follows_recipe

_CONSTANT = {"sign": Code.ALWAYS_POSITIVE_SIGN, "step": Code.ALWAYS_ONE}


def decide_sets(draft: Draft) -> None:
    """Note for each converted layer which of its input channels are nonnegative in all of its calls."""
    signs = Signs(draft.flow, lambda node: _instead(draft, node))
    for site in draft.sites.values():
        seen = site.site()
        site.nonnegative = _channels(draft, signs, site)
        if site.nonnegative and follows_recipe(draft.method, seen):
            quantizer = quantizer_of(draft, site)
            site.values = getattr(quantizer, "values", "")
            if getattr(quantizer, "needs_negatives", False):
                site.constant = "sign"
            elif getattr(quantizer, "needs_zeros", False) and _channels(draft, signs, site, positive=True):
                site.constant = "step"


def _channels(draft: Draft, signs: Signs, site: SiteDraft, *, positive: bool = False) -> Ranges:
    """The input channels without negative values, or with positive ones only; none if calls differ."""
    seen = site.site()
    sources = [draft.flow.source(node) for node in site.nodes]
    found = {
        () if source is None else signs.nonnegative(source, seen.in_channels, seen.dim, positive=positive)
        for source in sources
    }
    return found.pop() if len(found) == 1 else ()


def quantizer_of(draft: Draft, site: SiteDraft) -> nn.Module:
    """The activation quantizer of a site, without data."""
    with torch.device("meta"):
        return site.recipe(draft.method).quantizer()


def constant_activations(draft: Draft) -> Iterator[Statement]:
    """Warnings about layers whose binary activations, on some or all channels, do not depend on the image."""
    groups: dict[tuple[str, bool], list[str]] = {}
    for site in draft.sites.values():
        if site.constant:
            groups.setdefault((site.constant, site.site().sees_no_negatives), []).append(site.name)
    help_ = [
        *([draft.method.constant_remedy] if draft.method.constant_remedy else []),
        "keep such a layer in float (keep=)",
        "another method, whose thresholds are learnt (bidense, reactnet, adabin)",
        "or F.hardtanh in that function's place in the network, or by a forward hook on what makes the input",
    ]
    for (constant, whole), names in groups.items():
        where = "" if whole else " on some of their channels"
        yield Statement(_CONSTANT[constant], listed(names), where, "; ".join(help_))


def _instead(draft: Draft, node: fx.Node) -> fx.Node | Interval | None:
    """What a step becomes by the plan: see `instead` of `Signs`."""
    flow = draft.flow
    source = flow.source(node)
    edit = draft.edits.get((node.meta.get("owner", ""), node.meta.get("step") or ""))
    if edit is not None:
        kept = node.args[edit.keep if edit.action == "drop" else 0]
        if edit.action == "activation" and edit.activation is not None and isinstance(kept, fx.Node):
            return _of_own_activation(draft, edit.activation, kept)
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
    if swap.to == "activation":
        return _of_own_activation(draft, swap, source)
    if swap.to == "unfuse" and not swap.own:  # the activation of a norm that is taken over, by the method's
        return _of_own_activation(draft, swap, source)
    if swap.to == "inner_act":
        found = _of_own_activation(draft, swap, source)
        return ANYWHERE if found is source else found  # the norm stays in between
    if swap.to != "unfuse":
        return ANYWHERE
    act = fused_activation(flow.modules[str(node.target)])
    return source if act is None else of_module(act, ANYWHERE)


def _of_own_activation(draft: Draft, swap: Swap, source: fx.Node) -> fx.Node | Interval:
    """The values of the activation that a method puts in a place."""
    site = ActivationSite(
        channels=swap.channels,
        dim=swap.dim,
        spatial=swap.spatial,
        spatial_between=swap.spatial_between,
        removes_sign_information=swap.removes_sign_information,
    )
    with torch.device("meta"):
        made = draft.method.activation(site)
        module = None if made is None else made()
    if module is None:
        return ANYWHERE
    return source if type(module) is nn.Identity else of_module(module, ANYWHERE)
