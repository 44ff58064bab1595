"""Concatenations without copies: their parts are written where they belong from the beginning."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from binarize.runtime.program.arguments import arguments, source_of
from binarize.runtime.program.graph import is_float, shape_of

_CAT = torch.ops.aten.cat.default


@dataclass(frozen=True)
class Place:
    """A part of a concatenation.

    Attributes:
        whole: the concatenation.
        dim: along which its parts lie.
        start: first index of the part.
        size: of the part.
    """

    whole: fx.Node
    dim: int
    start: int
    size: int


@dataclass
class Placement:
    """Places of results by the node that makes them, and of concatenations that are parts of others."""

    places: dict[fx.Node, Place] = field(default_factory=dict)

    def of(self, node: fx.Node) -> Place | None:
        """The place of a node's result."""
        return self.places.get(maker(node))


def maker(node: fx.Node) -> fx.Node:
    """The node that makes a tensor: of the first of several results, the operator itself."""
    if node.target is operator.getitem and node.args[1] == 0:
        return source_of(node)
    return node


def place(graph: fx.Graph, views: set[object], returned: set[fx.Node]) -> Placement:
    """Places for the parts of all concatenations of a graph, the last concatenation first.

    A dense block's concatenations are the beginnings of its last one: they become parts of it and cost
    nothing.

    Args:
        graph: of a program.
        views: operators that write nothing.
        returned: nodes that the network returns: they have memory of their own.
    """
    found = Placement()
    for node in reversed(list(graph.nodes)):
        if node.target is _CAT and is_float(node):
            _place_parts(node, found, views, returned)
    return found


def _place_parts(node: fx.Node, found: Placement, views: set[object], returned: set[fx.Node]) -> None:
    named: Any = node.kwargs.get("dim", 0)
    parts, dim = arguments(node, (None, named))
    dim %= len(shape_of(node))
    if len(shape_of(node)) != 4 or dim != 1:
        return
    if node in found.places:
        return
    if node not in returned and (inside := _inside(node, parts, dim, found)) is not None:
        found.places[node] = inside
        return
    found.places[node] = Place(node, dim, 0, shape_of(node)[dim])
    start = 0
    for part in parts:
        size, made = shape_of(part)[dim], maker(part)
        val = part.meta["val"]
        free = made.op == "call_function" and made.target not in views and isinstance(val, Tensor)
        free = free and part not in returned
        if free and made not in found.places and is_float(part) and parts.count(part) == 1:
            found.places[made] = Place(node, dim, start, size)
        start += size


def _inside(node: fx.Node, parts: Sequence[fx.Node], dim: int, found: Placement) -> Place | None:
    """Where all parts lie side by side, in order, in another concatenation."""
    places = [found.places.get(maker(part)) for part in parts]
    first = places[0]
    if first is None or first.dim != dim:
        return None
    at = first.start
    for held in places:
        if held is None or held.whole is not first.whole or held.start != at or held.dim != dim:
            return None
        at += held.size
    return Place(first.whole, dim, first.start, at - first.start)
