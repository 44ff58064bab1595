"""A sum with another map: the layer or norm that makes a term of it adds it before the result is stored."""

from __future__ import annotations

import torch
from torch import fx

from binarize.runtime import ops
from binarize.runtime.program.graph import ProgramGraph, is_float, made_by, only_user, shape_of

aten = torch.ops.aten
_NO_LAYER = "no term is a packed layer's own result: something stands in between, or the layers are float"


def residual(program: ProgramGraph) -> None:
    """Let y = layer(x) + z become a part of the layer, where z has the same shape."""
    order: dict[fx.Node, float] = {n: i for i, n in enumerate(program.graph.nodes)}
    for node in program.calls(aten.add.Tensor):
        terms = [t for t in node.args[:2] if isinstance(t, fx.Node)]
        if len(terms) != 2 or node.kwargs.get("alpha", 1) != 1:
            continue
        # the later term first: it needs not be moved
        late, early = sorted(terms, key=order.__getitem__, reverse=True)
        reason = _add(program, node, late, early, order)
        if not reason:
            continue
        other = _add(program, node, early, late, order)
        if other and not (reason == other == _NO_LAYER and _is_no_sum(program, node, terms)):
            program.missed("residual", node, other if reason == _NO_LAYER else reason)


def _add(
    program: ProgramGraph, node: fx.Node, term: fx.Node, other: fx.Node, order: dict[fx.Node, float]
) -> str:
    """Let the layer that makes a term of the sum `node` add the other one; why not, if it cannot.

    Where the nodes stand is noted in `order`.
    """
    layer, result = made_by(term, ops.layer, ops.normed)
    if layer is None or result is None:
        return _NO_LAYER
    if reason := _why_not(program, node, layer, result, other):
        return reason
    # the sum alone reads the result, so the layer may wait until both terms are there
    node.prepend(layer)
    node.prepend(result)
    order[layer], order[result] = order[node] - 0.5, order[node]
    layer.kwargs = {**layer.kwargs, "residual": other}
    program.taken("residual", node)
    program.replace(node, result)
    return ""


def _is_no_sum(program: ProgramGraph, node: fx.Node, terms: list[fx.Node]) -> bool:
    """Whether something else is added than a map: a vector or a constant."""
    return any(t in program.constants or shape_of(t) != shape_of(node) for t in terms) or not is_float(node)


def _why_not(program: ProgramGraph, node: fx.Node, layer: fx.Node, result: fx.Node, other: fx.Node) -> str:
    if set(layer.users) != {result} or only_user(result) is not node or other is result:
        return "others read the packed layer's result, too"
    if any(layer.kwargs.get(name) is not None for name in ("residual", "tail_weight")):
        return "the packed layer adds another map or has a classifier behind it already"
    if shape_of(other) != shape_of(result) or not is_float(other):
        return "the other term has another shape, or is not float32"
    return "the other term is a constant" if other in program.constants else ""
