"""What happens to the norms behind and in front of binary layers, and to layer scale."""

from __future__ import annotations

from torch import fx, nn
from torch.nn.utils import parametrize

from binarize.graph.decide.draft import Draft, SiteDraft
from binarize.graph.hooks import has_state_hooks
from binarize.graph.plan import Edit, Swap
from binarize.graph.plan_sentences import Code, Statement
from binarize.graph.trace.dataflow import LAYOUT, PASSIVE
from binarize.graph.trace.roles import RESPONSE_NORMS, fused_activation, fused_drop, is_batch_norm
from binarize.layers.recipe import NormKind
from binarize.methods.bypasses import composes

_ATTENTION = {"attention", "matmul"}


def decide_norms(draft: Draft) -> None:
    """Take over or remove the norm behind each converted layer, then remove those in front."""
    for site in draft.sites.values():
        _behind(draft, site)
    for node in draft.flow.nodes:
        if draft.flow.role(node) == "norm" and node not in draft.norms:
            _in_front(draft, node)


def decide_scales(draft: Draft) -> None:
    """Remove layer scale (a learnt factor per channel, or one) on the results of converted layers."""
    flow = draft.flow
    for node in flow.nodes:
        role = flow.role(node)
        site = draft.direct_site(flow.source(node))
        if site is None or _norm_kind(draft, site) == "own":
            continue
        if role == "scale":
            if len(flow.calls[str(node.target)]) == 1:
                draft.scales.add(node)
                draft.swaps[str(node.target)] = Swap(path=str(node.target), to="identity")
                site.norm.append(Statement(Code.SCALE_REMOVED))
        elif role == "mul" and _is_learnt_factor(draft, node):
            source = flow.source(node)
            keep = next((i for i, arg in enumerate(node.args) if arg is source), None)
            if keep is None:
                continue
            edit = Edit(owner=node.meta["owner"], node=node.meta["step"] or "", action="drop", keep=keep)
            if draft.edit(node, edit):
                draft.scales.add(node)
                site.norm.append(Statement(Code.SCALE_REMOVED))


def _is_learnt_factor(draft: Draft, node: fx.Node) -> bool:
    """X * parameter, the parameter with at most one value per channel and perhaps reshaped."""
    flow = draft.flow
    factors = [n for n in node.all_input_nodes if n.meta["constant"]]
    if len(factors) != 1 or len(flow.sources(node)) != 1:
        return False
    root = factors[0]
    while root.op != "get_attr" and root.all_input_nodes:
        root = root.all_input_nodes[0]
    if root.op != "get_attr" or root.target not in flow.parameters:
        return False
    count = 1
    for n in flow.shape(factors[0]):
        count *= n
    dim = flow.channel_dim.get(node)
    return count == 1 or (dim is not None and count == flow.shape(node)[dim])


def short_name(path: str) -> str:
    """The last part of a path, with the one before it where it is a number."""
    parts = path.split(".")
    return ".".join(parts[-2:]) if parts[-1].isdigit() else parts[-1]


def _behind(draft: Draft, site: SiteDraft) -> None:
    flow = draft.flow
    kind = _norm_kind(draft, site)
    site.norm = [_new_norm(kind)]
    site.tail = site.nodes[0]
    if len(site.nodes) > 1:
        if any(flow.role(user) == "norm" for node in site.nodes for user in node.users):
            site.norm.append(Statement(Code.NORMS_STAY))
        return
    node = site.nodes[0]
    norm = flow.only_user(node, LAYOUT)
    if norm is None or flow.role(norm) != "norm":
        return
    module = flow.module(norm)
    if module is None:
        if kind == "own":
            return
        edit = Edit(owner=norm.meta["owner"], node=norm.meta["step"] or "", action="drop", keep=0)
        if draft.edit(norm, edit):
            _note_removed(draft, site, norm, "functional norm")
        return
    path = str(norm.target)
    if len(flow.calls[path]) > 1 or type(module).__name__ in RESPONSE_NORMS:
        return
    name = short_name(path)
    if parametrize.is_parametrized(module) or has_state_hooks(module):
        site.norm.append(Statement(Code.NORM_STAYS_HELD, name))
        return
    if flow.is_read(path):
        site.norm.append(Statement(Code.NORM_STAYS_READ, name))
        return
    direct = flow.source(norm) is node
    if is_batch_norm(module):
        if not direct or site.kind != "conv":
            return
        draft.norms[norm] = "absorbed"
        site.tail = norm
        if kind in ("batch", "own"):
            site.absorbs, site.norm = path, [Statement(Code.TAKES_NORM, name)]
        else:
            site.norm = [Statement(Code.NORM_REMOVED, name)]
        draft.swaps[path] = _leftover(path, module)
    elif isinstance(module, (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)) or "RmsNorm" in type(module).__name__:
        takes = (
            kind in ("layer", "own") and type(module) is nn.LayerNorm and direct and module.elementwise_affine
        )
        if takes and module.bias is not None and module.normalized_shape == (flow.shape(node)[-1],):
            draft.norms[norm] = "absorbed"
            site.tail, site.absorbs, site.norm = norm, path, [Statement(Code.TAKES_NORM, name)]
        elif kind == "own":
            return
        else:
            _note_removed(draft, site, norm, name)
        draft.swaps[path] = _leftover(path, module)
    else:
        site.norm.append(Statement(Code.NORM_STAYS, name))


def _norm_kind(draft: Draft, site: SiteDraft) -> NormKind:
    return "none" if composes(draft.method, site.site()) else site.recipe(draft.method).norm


def _new_norm(kind: NormKind) -> Statement:
    name = {"batch": "BatchNorm", "layer": "LayerNorm"}.get(kind)
    return Statement(Code.NONE) if name is None else Statement(Code.NEW_NORM, name)


def _note_removed(draft: Draft, site: SiteDraft, norm: fx.Node, name: str) -> None:
    draft.norms[norm] = "removed"
    site.tail = norm
    site.norm.append(Statement(Code.NORM_REPLACED, name))


def _leftover(path: str, module: nn.Module) -> Swap:
    """What replaces a norm: the activation and dropout that were fused into it."""
    act, drop = fused_activation(module), fused_drop(module)
    if act is None and drop is None:
        return Swap(path=path, to="identity")
    return Swap(path=path, to="unfuse")


def _in_front(draft: Draft, node: fx.Node) -> None:
    """Remove LayerNorm and GroupNorm in front of converted layers; behind float ones make them BatchNorm."""
    flow = draft.flow
    module = flow.module(node)
    replaceable = isinstance(module, (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)) or (
        module is not None and "RmsNorm" in type(module).__name__
    )
    if module is None or not replaceable or len(flow.calls[str(node.target)]) > 1:
        return
    path = str(node.target)
    if flow.is_read(path):
        return
    consumers = flow.consumers(node, PASSIVE | {"act"})
    sites = [draft.site_at(consumer) for consumer in consumers]
    if not any(sites) or any(site is not None and _norm_kind(draft, site) == "own" for site in sites):
        return
    producer = flow.up(node, PASSIVE | {"pool", "pad"})  # a stem may end in one
    dim = flow.channel_dim.get(node)
    if (
        producer is not None
        and flow.is_layer(producer)
        and draft.site_at(producer) is None
        and dim is not None
    ):
        if all(
            site is not None or flow.role(user) == "add" for site, user in zip(sites, consumers, strict=True)
        ):
            shape = flow.shape(node)
            last = dim == len(shape) - 1 and (dim != 1 or len(shape) == 2)
            draft.norms[node] = "batch"
            draft.kept_norms[str(producer.target)] = Statement(Code.NORM_BECOMES_BATCH, type(module).__name__)
            draft.swaps[path] = Swap(
                path=path,
                to="batch_norm",
                channels=shape[dim],
                dim=-1 if last else 1,
                spatial=len(shape) - 2,
            )
        return
    if not all(sites):
        return
    if any(_feeds_attention(draft, consumer) for consumer in consumers):
        return  # its logits grow with the square of its input
    draft.norms[node] = "removed"
    draft.swaps[path] = _leftover(path, module)
    for site in sites:
        if site is not None:
            site.norm.append(Statement(Code.NORM_IN_FRONT_REMOVED, short_name(path)))


def _feeds_attention(draft: Draft, node: fx.Node) -> bool:
    flow = draft.flow
    return flow.reaches(
        node,
        lambda user: flow.role(user) in _ATTENTION,
        lambda user: flow.is_layer(user) or flow.role(user) == "add" or user.op == "output",
    )
