"""Operators that work in place become those that give a new tensor: memory is planned later."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from binarize.runtime.program.capture import NoProgramError
from binarize.runtime.program.graph import ProgramGraph, nodes_in
from binarize.runtime.program.operators.views import SPLITS, VIEWS


def functional(program: ProgramGraph) -> None:
    """Replace in-place operators.

    Raises:
        NoProgramError: what is written to is read by another name later, or comes from outside.
    """
    base: dict[fx.Node, fx.Node] = {}  # whose memory a node's tensor lies in
    order = {node: i for i, node in enumerate(program.graph.nodes)}
    for node in list(program.graph.nodes):
        source = next(iter(nodes_in(node.args)), None)
        views = node.target in VIEWS or node.target in SPLITS or node.target is operator.getitem
        base[node] = base[source] if source is not None and views else node
        if not _in_place(node):
            continue
        if source is None or base[source].op == "placeholder":
            raise NoProgramError(f"{node.target} writes to an input or a parameter")
        _check_readers(node, source, base, order)
        _replace(program, node, source)
        base[node] = node


def _in_place(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and schema.is_mutable


def _check_readers(
    node: fx.Node, written: fx.Node, base: dict[fx.Node, fx.Node], order: dict[fx.Node, int]
) -> None:
    """Whether anything reads the memory later by another name than those of what was written."""
    for other, lies_in in base.items():
        if lies_in is not base[written] or other in (written, node):
            continue
        if any(order[user] > order[node] for user in other.users):
            raise NoProgramError(f"{node.target} writes to a part of a tensor that is read later")


def _replace(program: ProgramGraph, node: fx.Node, written: fx.Node) -> None:
    target: Any = node.target
    packet, _, overload = str(target).removeprefix("aten.").partition(".")
    found = getattr(getattr(torch.ops.aten, packet.removesuffix("_"), None), overload, None)
    if found is None or not packet.endswith("_"):
        raise NoProgramError(f"{target} has no form that gives a new tensor")
    node.target = found
    order = {n: i for i, n in enumerate(program.graph.nodes)}
    for user in list(written.users):
        if order[user] > order[node]:
            user.replace_input_with(written, node)
