"""Where a network computes attention, and whether its two products become binary.

Attention is a call of torch's `scaled_dot_product_attention`, or a softmax between two products. The forward
that computes it is rewritten: it calls a new module for the whole, or for each of the two products.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import fx, nn

from binarize.graph.decide.draft import Draft
from binarize.graph.decide.policy import Policy, named_reason
from binarize.graph.plan import AttentionPlan, AttentionSwap, Edit
from binarize.graph.plan_sentences import Code, Statement
from binarize.graph.trace.channel_axes import channel_axes
from binarize.graph.trace.dataflow import PASSIVE, Flow
from binarize.layers import AttentionShapes
from binarize.layers.recipe import binary_attention

MODULE = "binary_attention"
_BETWEEN = {"layout", "drop", "add", "mul", "split"}
_BETWEEN_BY_NAME = {"masked_fill", "where", "clamp", "sub", "maximum", "nan_to_num", "float", "half", "to"}
_PRODUCTS = {"matmul", "bmm"}


@dataclass(frozen=True)
class Found:
    """Attention in a recorded run.

    Attributes:
        last: gives its result.
        scores: gives the product of queries and keys; `last` where one call is all of it.
        query: of the products' factors, as they are multiplied.
        key: (..., D, S) as it is multiplied; (..., S, D) where one call is all of it.
        value: likewise.
        rows_right: the softmax rows are the second factor of the second product.
    """

    last: fx.Node
    scores: fx.Node
    query: fx.Node
    key: fx.Node
    value: fx.Node
    rows_right: bool = False


def decide_attention(draft: Draft, policy: Policy) -> tuple[AttentionPlan, ...]:
    """A row for each attention of the network, if the method is to make it binary, and edits for those."""
    if not binary_attention(draft.method):
        return ()
    return tuple(_row(draft, found, policy) for found in _attentions(draft.flow))


def _row(draft: Draft, found: Found | tuple[fx.Node, Statement], policy: Policy) -> AttentionPlan:
    node = found.last if isinstance(found, Found) else found[0]
    own = node.op == "call_module" and draft.flow.role(node) == "attention"
    name = str(node.target) if own else node.meta["owner"]
    if not isinstance(found, Found):
        return AttentionPlan(name=name, step=node.meta["step"] or "", reason=found[1])
    shapes = [draft.flow.shape(n) for n in (found.query, found.key, found.value)]
    if found.scores is not found.last:
        shapes[1] = (*shapes[1][:-2], *shapes[1][:-3:-1])
    row = AttentionPlan(
        name=name, step=node.meta["step"] or "", query=shapes[0], key=shapes[1], value=shapes[2]
    )
    reason = named_reason(name, policy) or _why_not(draft, found)
    if reason is not None:
        return dataclasses.replace(row, reason=reason)
    _edit(draft, found)
    return dataclasses.replace(row, converted=True)


def _edit(draft: Draft, found: Found) -> None:
    owner, step = found.last.meta["owner"], found.last.meta["step"]
    query, key, value = (channel_axes(draft.flow, n) for n in (found.query, found.key, found.value))
    whole = found.scores is found.last
    taken = {edit.attention.module for edit in draft.edits.values() if edit.owner == owner and edit.attention}
    module = draft.free_name(owner, MODULE)
    while module in taken:
        module += "_"
    swap = AttentionSwap(
        module=module,
        scores="" if whole else found.scores.meta["step"],
        shapes=AttentionShapes(
            query=query, key=_transposed(key) if whole else key, value=value, rows_right=found.rows_right
        ),
    )
    draft.edits[owner, step] = Edit(owner=owner, node=step, action="attention", attention=swap)


def _transposed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape with its last two axes swapped, the second one being 1 if there is none."""
    if not shape:
        return shape
    wide = (1, *shape) if len(shape) == 1 else shape
    return (*wide[:-2], wide[-1], wide[-2])


def _why_not(draft: Draft, found: Found) -> Statement | None:
    """Why the forward that computes an attention cannot be rewritten, or None if it can."""
    last, scores = found.last, found.scores
    if last.meta["owner"] != scores.meta["owner"]:
        return Statement(Code.ATTENTION_SPREAD, scores.meta["owner"], last.meta["owner"])
    for node in (last, scores):
        if not draft.editable(node):
            return draft.why_not_editable(node)
        if not _is_its_step(node, draft.step_of(node)):
            return Statement(Code.ATTENTION_PRODUCTS)
    return None


def _is_its_step(node: fx.Node, step: fx.Node | None) -> bool:
    """Whether a step of a module's own graph is this call, and not that of a function around it."""
    if step is None or step.op not in ("call_function", "call_method"):
        return False
    name = step.target if step.op == "call_method" else getattr(step.target, "__name__", "")
    return name == _name(node) and (_name(node) not in _PRODUCTS or _has_two_factors(step))


# -- what the run shows ---------------------------------------------------------------------------------


def _attentions(flow: Flow) -> list[Found | tuple[fx.Node, Statement]]:
    """Every attention, in the order of the run; for others, a node and why its products cannot be found.

    Of products in a forward without attention the last one stands for all.
    """
    found: list[Found | tuple[fx.Node, Statement]] = []
    for node in flow.nodes:
        role = flow.role(node)
        if role == "attention":
            found.append(_of_one_call(flow, node))
        elif _is_softmax(flow, node) and (one := _around(flow, node)) is not None:
            found.append(one)
    owners = {node.meta["owner"] for one in found for node in _nodes_of(one)}
    left = {n.meta["owner"]: n for n in flow.nodes if _multiplies_activations(flow, n)}
    found += [(node, Statement(Code.NO_ATTENTION)) for own, node in left.items() if own not in owners]
    return sorted(found, key=lambda one: flow.order[_nodes_of(one)[0]])


def _nodes_of(found: Found | tuple[fx.Node, Statement]) -> tuple[fx.Node, ...]:
    return (found.last, found.scores) if isinstance(found, Found) else (found[0],)


def _of_one_call(flow: Flow, node: fx.Node) -> Found | tuple[fx.Node, Statement]:
    if node.op == "call_module":
        return node, Statement(Code.ATTENTION_INSIDE, type(flow.module(node)).__name__)
    names = ("query", "key", "value")
    given = [node.args[i] if i < len(node.args) else node.kwargs.get(n) for i, n in enumerate(names)]
    query, key, value = (n if isinstance(n, fx.Node) else node for n in given)
    return Found(node, node, query, key, value)


def _is_softmax(flow: Flow, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(flow.module(node), nn.Softmax)
    return node.op == "call_function" and _name(node) == "softmax"


def _around(flow: Flow, softmax: fx.Node) -> Found | tuple[fx.Node, Statement] | None:
    """The attention that a softmax belongs to; None if its result is in no product."""
    users = [n for n in flow.consumers(softmax, PASSIVE) if _multiplies_activations(flow, n)]
    if not users:
        return None
    if len(users) > 1:
        return users[0], Statement(Code.ATTENTION_ROWS_READ, len(users))
    last, scores = users[0], _product_above(flow, softmax)
    if scores is None:
        return last, Statement(Code.ATTENTION_NO_SCORES)
    if not (_is_plain(scores) and _is_plain(last)):
        return last, Statement(Code.ATTENTION_PRODUCTS)
    query, key = (n for n in scores.args if isinstance(n, fx.Node))
    left, right = (n for n in last.args if isinstance(n, fx.Node))
    rows_right = flow.up(last, PASSIVE) is not softmax
    return Found(last, scores, query, key, left if rows_right else right, rows_right)


def _product_above(flow: Flow, softmax: fx.Node) -> fx.Node | None:
    """The product of two activations whose result a softmax sees, scaled, shifted or masked."""
    queue, seen = list(flow.sources(softmax)), set()
    while queue:
        node = queue.pop(0)
        if node in seen:
            continue
        seen.add(node)
        if _multiplies_activations(flow, node):
            return node
        if flow.role(node) in _BETWEEN or _name(node) in _BETWEEN_BY_NAME:
            queue += flow.sources(node)
    return None


def _multiplies_activations(flow: Flow, node: fx.Node) -> bool:
    return flow.role(node) == "matmul" and len(flow.sources(node)) > 1


def _is_plain(node: fx.Node) -> bool:
    return _name(node) in _PRODUCTS and _has_two_factors(node)


def _has_two_factors(node: fx.Node) -> bool:
    return len(node.args) == 2 and not node.kwargs


def _name(node: fx.Node) -> str:
    """The name of the function that a step calls."""
    return getattr(node.target, "__name__", "").strip("_")
