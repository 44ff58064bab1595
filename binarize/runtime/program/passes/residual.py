"""A sum with another map: the packed layer that makes a term of it adds it before the result is stored."""

from __future__ import annotations

import torch
from torch import fx

from binarize.runtime.program.graph import ProgramGraph, is_float, layer_of, only_user, shape_of

aten = torch.ops.aten


def residual(program: ProgramGraph) -> None:
    """Y = layer(x) + z becomes a part of the layer, where z is made before it and has the same shape."""
    order = {node: i for i, node in enumerate(program.graph.nodes)}
    for node in program.calls(aten.add.Tensor):
        terms = [t for t in node.args[:2] if isinstance(t, fx.Node)]
        if len(terms) != 2 or node.kwargs.get("alpha", 1) != 1:
            continue
        # the later term can add the earlier one
        late, early = sorted(terms, key=lambda t: order.get(t, -1), reverse=True)
        layer, result = layer_of(late)
        if layer is None or result is None or late is early:
            continue
        reason = _why_not(program, node, layer, result, early, order)
        if reason:
            program.missed("residual", layer, reason)
            continue
        layer.kwargs = {**layer.kwargs, "residual": early}
        program.taken("residual", layer)
        program.replace(node, result)


def _why_not(
    program: ProgramGraph,
    node: fx.Node,
    layer: fx.Node,
    result: fx.Node,
    other: fx.Node,
    order: dict[fx.Node, int],
) -> str:
    if only_user(result) is not node:
        return "its result is read by others, too"
    if any(layer.kwargs.get(name) is not None for name in ("residual", "tail_weight")):
        return "it adds something or has a tail already"
    if shape_of(other) != shape_of(result) or not is_float(other):
        return "the other term has another shape"
    if other in program.constants or order[other] > order[layer]:
        return "the other term is made later"
    return ""
