"""A sum with another map: the layer or norm that makes a term of it adds it before the result is stored."""

from __future__ import annotations

import torch
from torch import fx

from binarize.runtime import ops
from binarize.runtime.program.graph import ProgramGraph, is_float, made_by, only_user, shape_of

aten = torch.ops.aten


def residual(program: ProgramGraph) -> None:
    """Let y = layer(x) + z become a part of the layer, where z has the same shape."""
    for node in program.calls(aten.add.Tensor):
        terms = [t for t in node.args[:2] if isinstance(t, fx.Node)]
        if len(terms) != 2 or node.kwargs.get("alpha", 1) != 1:
            continue
        order = {n: i for i, n in enumerate(program.graph.nodes)}
        # the later term first: it needs not be moved
        late, early = sorted(terms, key=order.__getitem__, reverse=True)
        if not _add(program, node, late, early):
            _add(program, node, early, late)


def _add(program: ProgramGraph, node: fx.Node, term: fx.Node, other: fx.Node) -> bool:
    """Let the layer that makes a term of the sum `node` add the other one; False if it cannot."""
    layer, result = made_by(term, ops.layer, ops.normed)
    if layer is None or result is None:
        return False
    if reason := _why_not(program, node, layer, result, other):
        program.missed("residual", layer, reason)
        return False
    # the sum alone reads the result, so the layer may wait until both terms are there
    node.prepend(layer)
    node.prepend(result)
    layer.kwargs = {**layer.kwargs, "residual": other}
    program.taken("residual", layer)
    program.replace(node, result)
    return True


def _why_not(program: ProgramGraph, node: fx.Node, layer: fx.Node, result: fx.Node, other: fx.Node) -> str:
    if set(layer.users) != {result} or only_user(result) is not node or other is result:
        return "its result is read by others, too"
    if any(layer.kwargs.get(name) is not None for name in ("residual", "tail_weight")):
        return "it adds something or has a tail already"
    if shape_of(other) != shape_of(result) or not is_float(other):
        return "the other term has another shape"
    return "the other term is a constant" if other in program.constants else ""
