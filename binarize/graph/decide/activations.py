"""Which of the network's activations become the method's own, and how each replacement is put in."""

from __future__ import annotations

import dataclasses

from torch import fx

from binarize.graph.decide.activation_sites import activation_site
from binarize.graph.decide.draft import Draft, SiteDraft
from binarize.graph.plan import Edit, Swap
from binarize.graph.plan_sentences import Code, Statement
from binarize.graph.trace.dataflow import PASSIVE
from binarize.graph.trace.roles import OWN_ACTIVATIONS, fused_activation
from binarize.methods.base import ActivationSite
from binarize.methods.bypasses import composes

_NEAR = PASSIVE | {"norm", "pool", "pad", "add", "scale", "split", "cat"}


def note_contexts(draft: Draft) -> None:
    """Note for each converted layer what follows it: methods build layers by it."""
    for site in draft.sites.values():
        holder = activation_of(draft, site)
        if holder is None:
            continue
        behind = draft.flow.only_user(holder, ())
        seen = activation_site(draft, holder, site, behind)
        site.context = {
            "activated": True,
            "spatial_next": seen is not None and seen.spatial_between,
            "final_next": seen is not None and seen.final_next,
        }


def activation_of(draft: Draft, site: SiteDraft) -> fx.Node | None:
    """The node of the activation right behind a layer's norm: its own, or the norm's it is fused into."""
    flow, tail = draft.flow, site.tail
    if tail is None or len(site.nodes) > 1:
        return None
    module = flow.module(tail)
    if flow.role(tail) == "norm":
        if module is not None and fused_activation(module) is not None:
            return tail
    else:
        norm = flow.only_user(tail, PASSIVE)  # a norm that stays, with an activation inside
        module = flow.module(norm) if norm is not None else None
        if norm is not None and flow.role(norm) == "norm" and module is not None and fused_activation(module):
            return norm
    user = flow.only_user(tail, PASSIVE)
    return user if user is not None and flow.role(user) == "act" else None


def decide_activations(draft: Draft) -> None:
    """Replace the activations beside converted layers by the method's own."""
    flow = draft.flow
    behind = {activation_of(draft, site): site for site in draft.sites.values()}
    behind.pop(None, None)
    groups: dict[tuple[str, str | None, str], list[fx.Node]] = {}
    for node in flow.nodes:
        module = flow.module(node)
        fused = flow.role(node) == "norm" and module is not None and fused_activation(module) is not None
        if flow.role(node) == "act" or fused:
            target = str(node.target) if node.op == "call_module" else ""
            groups.setdefault((node.meta["owner"], node.meta["step"], target), []).append(node)
    for nodes in groups.values():
        site = behind.get(nodes[0])
        text = _decide(draft, nodes, site)
        if site is not None:
            site.activation = text
        elif text.code is Code.BECOMES:
            _note_replaced(draft, nodes[0], text)


def _note_replaced(draft: Draft, node: fx.Node, text: Statement) -> None:
    """Say in the row of a layer in front that an activation behind its sum changes, or behind a float layer.

    Of several layers that are added up or concatenated there, it is the last one that has a bypass.
    """
    flow = draft.flow
    seen: set[fx.Node] = set()
    queue = list(flow.sources(node))
    layers: list[fx.Node] = []
    while queue:
        source = queue.pop()
        if source in seen:
            continue
        seen.add(source)
        if flow.role(source) in ("conv", "linear"):
            layers.append(source)
        elif flow.role(source) in _NEAR:
            queue += flow.sources(source)
    if not layers:
        return
    name = str(max(layers, key=lambda layer: (_has_bypass(draft, layer), flow.order[layer])).target)
    site = draft.sites.get(name)
    if site is None:
        draft.kept_activations.setdefault(name, text)
    elif site.activation.code is Code.NONE:
        site.activation = text


def _has_bypass(draft: Draft, layer: fx.Node) -> bool:
    site = draft.site_at(layer)
    return site is not None and site.bypass


def _decide(draft: Draft, nodes: list[fx.Node], front: SiteDraft | None) -> Statement:
    flow, node = draft.flow, nodes[0]
    module = flow.module(node)
    fused = flow.role(node) == "norm"
    own = fused_activation(module) if fused and module is not None else module
    name = type(own).__name__ if own is not None else getattr(node.target, "__name__", "activation")
    if isinstance(own, OWN_ACTIVATIONS) or not (front is not None or _near(draft, node)):
        return Statement(Code.KEEPS, name)
    if any(n in draft.position.outputs.steps for n in nodes):
        return Statement(Code.KEEPS_AT_OUTPUT, name)
    if any(_is_factor(draft, node, user) for user in node.users):
        return Statement(Code.KEEPS_FACTOR, name)
    inside = front is not None and _has_activation_inside(draft, front)
    seen = [activation_site(draft, n, front, flow.only_user(n, ())) for n in nodes]
    if None in seen or len(set(seen)) > 1:
        return Statement(Code.KEEPS_UNKNOWN_CHANNELS, name)
    place = seen[0]
    made = draft.method.activation(place) if place is not None else None
    if place is None or (made is None and not inside):
        return Statement(Code.KEEPS, name)
    if _put(draft, node, place, fused=fused, nothing=inside):
        if inside:
            return Statement(Code.INSIDE_UNIT, name)
        return Statement(Code.BECOMES, name, _class_name(made))
    return Statement(Code.KEEPS_IN_FORWARD, name, draft.why_not_editable(node))


def _is_factor(draft: Draft, node: fx.Node, user: fx.Node) -> bool:
    """Whether an activation multiplies a signal of another origin (a gated unit), not one gated by itself."""
    flow = draft.flow
    others = [source for source in flow.sources(user) if source is not node]
    return (
        flow.role(user) == "mul" and bool(others) and not any(flow.between(node, other) for other in others)
    )


def _put(draft: Draft, node: fx.Node, place: ActivationSite, *, fused: bool, nothing: bool) -> bool:
    """Note the replacement of the activation at `node`; False if it cannot be replaced."""
    flow, path = draft.flow, str(node.target)
    if node.op == "call_module" and flow.is_read(path):
        return False
    swap = Swap(
        path=path,
        to="identity" if nothing else "activation",
        channels=place.channels,
        dim=place.dim,
        spatial=place.spatial,
        spatial_between=place.spatial_between,
        removes_sign_information=place.removes_sign_information,
        own=False,
    )
    if fused:
        became = draft.norms.get(node)
        if became is None:  # the norm stays, only the activation inside is removed
            swap = dataclasses.replace(swap, to="no_inner_act" if nothing else "inner_act")
        elif became in ("absorbed", "removed"):
            swap = dataclasses.replace(swap, to="drop_act" if nothing else "unfuse")
        else:
            return False
        draft.swaps[path] = swap
        return True
    places = {(n.meta["owner"], n.meta["step"]) for n in flow.calls.get(path, [])}
    if len(places) == 1 and not flow.has_aliases(path):
        if not draft.used(node) or draft.read_again(node):
            return False  # works in place, and its replacement would not
        draft.swaps[path] = swap
        return True
    step = node.meta["step"] or ""
    action = "identity" if nothing else "activation"
    new = dataclasses.replace(swap, path=draft.free_name(node.meta["owner"], f"{step}_act"))
    return draft.edit(node, Edit(owner=node.meta["owner"], node=step, action=action, activation=new))


def _has_activation_inside(draft: Draft, site: SiteDraft) -> bool:
    if composes(draft.method, site.site()):
        return True
    return site.recipe(draft.method).inner is not None


def _near(draft: Draft, node: fx.Node) -> bool:
    """Whether a converted layer is in front of or behind this step with no other layer between."""
    flow = draft.flow
    seen: set[fx.Node] = set()
    queue = list(flow.sources(node))
    while queue:
        source = queue.pop()
        if source in seen:
            continue
        seen.add(source)
        if draft.site_at(source) is not None:
            return True
        if flow.role(source) in _NEAR:
            queue += flow.sources(source)
    return any(draft.site_at(consumer) for consumer in flow.consumers(node, _NEAR - {"add"}))


def _class_name(factory: object) -> str:
    made = getattr(factory, "func", factory)
    return getattr(made, "__name__", type(made).__name__)
