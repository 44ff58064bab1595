"""Pooling of maps to vectors, by what a step computes: on a map of 1x1 its sizes do not show it."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from binarize.graph.trace.dataflow import Flow

_ADAPTIVE = (nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd)
# Steps that combine signals: a vector only where all of them are, a map where one of them is a map.
_COMBINE = ("add", "mul", "other")
_BETWEEN = ("layout", "drop", "split", "scale", "mul")


def pooled_values(flow: Flow) -> set[fx.Node]:
    """The nodes whose values come from one global pooling: one position per sample from there on."""
    found: set[fx.Node] = set()
    for node in flow.nodes:
        source = flow.source(node)
        if source is None:
            continue
        pools = flow.role(node) in ("pool", "matmul")
        if pools and (elements(flow, source) > elements(flow, node) or _pools_one_position(flow, node)):
            found.add(node)
        elif pools or map_size(flow, node) == 1:
            given = flow.sources(node) if flow.role(node) in _COMBINE else (source,)
            if all(one in found for one in given):
                found.add(node)
    return found


def elements(flow: Flow, node: fx.Node) -> int:
    """The number of values of a result."""
    count = 1
    for n in flow.shape(node):
        count *= n
    return count


def map_size(flow: Flow, node: fx.Node) -> int | None:
    """Positions of a map; a vector (N, C) has one, as have (N, 1, C) and (N, C, 1, 1)."""
    if sum(n > 1 for n in flow.shape(node)[1:]) <= 1:
        return 1
    return flow.positions(node)


def _pools_one_position(flow: Flow, node: fx.Node) -> bool:
    """Whether a step that removed nothing from a map of 1x1 would pool all positions of any larger map."""
    source = flow.source(node)
    if source is None or map_size(flow, node) != 1 or map_size(flow, source) != 1:
        return False
    if flow.role(node) == "matmul":
        return any(_is_map_of_weights(flow, one) for one in flow.sources(node))
    module = flow.module(node)
    if module is not None:
        return isinstance(module, _ADAPTIVE) and _all_one(module.output_size)
    name = getattr(node.target, "__name__", "")
    if name.startswith("adaptive"):
        return _all_one(_argument(node, "output_size"))
    if "pool" in name or name == "boolean_dispatch":
        # a window computed from the map, as in avg_pool2d(x, x.shape[2:]): no other window is 1x1
        strides = node.args[2] if len(node.args) > 2 else node.kwargs.get("stride")
        return _all_one(_argument(node, "kernel_size")) and (not strides or _all_one(strides))
    return _reduces_positions(flow, node)


def _reduces_positions(flow: Flow, node: fx.Node) -> bool:
    """Whether a reduction, or several of one dim each, leaves the samples and the channels only."""
    source = flow.source(node)
    rank = len(flow.shape(node if source is None else source))
    reduced: set[int] = set()
    while source is not None and flow.role(node) == "pool" and len(flow.shape(source)) == rank:
        dims = _argument(node, "dim")
        given = dims if isinstance(dims, (tuple, list)) else (dims,)
        if not all(isinstance(dim, int) for dim in given):
            break
        reduced |= {int(dim) % rank for dim in given}
        # where the channels are is unknown behind some reshapes: then they stand in front of the positions
        channel = flow.channel_dim.get(source)
        if set(range(rank)) - reduced == {0, 1 if channel is None else channel}:
            return True
        node, source = source, flow.source(source)
    return False


def _is_map_of_weights(flow: Flow, node: fx.Node) -> bool:
    """Whether a factor holds a weight for each position from a softmax over a map (global context).

    The weights of self-attention come from a product instead, and leave one row for each position.
    """
    found: fx.Node | None = node
    while found is not None and flow.role(found) in _BETWEEN:
        found = flow.source(found)
    if found is None or flow.role(found) != "gate":
        return False
    above = flow.up(found, (*_BETWEEN, "add"))
    return above is not None and flow.is_layer(above)


def _argument(node: fx.Node, name: str) -> Any:
    """The second argument of a function, by position or by name."""
    return node.args[1] if len(node.args) > 1 else node.kwargs.get(name)


def _all_one(value: Any) -> bool:
    return value == 1 or (isinstance(value, (tuple, list)) and bool(value) and all(v == 1 for v in value))
