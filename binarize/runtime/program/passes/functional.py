"""Operators that work in place become those that give a new tensor: memory is planned later."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves

from binarize.runtime.program.capture import NoProgramError
from binarize.runtime.program.graph import ProgramGraph, nodes_in, value_of, written_by
from binarize.runtime.program.lowering import storage_of


def functional(program: ProgramGraph) -> None:
    """Replace in-place operators.

    Raises:
        NoProgramError: what is written to is read by another name later, or comes from outside.
    """
    if not any(written_by(node) for node in program.graph.nodes):
        return
    order = {node: i for i, node in enumerate(program.graph.nodes)}
    sharing: dict[int, list[fx.Node]] = {}  # by memory, as the run on fake tensors had it
    for node in order:
        for memory in _memory(node):
            sharing.setdefault(memory, []).append(node)
    for node in list(program.graph.nodes):
        if not written_by(node):
            continue
        written = _written(node)
        names = [other for memory in _memory(written) for other in sharing.get(memory, ())]
        if any(other.op == "placeholder" for other in names):
            raise NoProgramError(f"{node.target} writes to an input or a parameter")
        for other in names:  # those made later read what is written, or a name made earlier
            earlier = order[other] < order[node] and other is not written
            if earlier and any(order[user] > order[node] for user in other.users):
                raise NoProgramError(f"{node.target} writes to a part of a tensor that is read later")
        _replace(node, written, order)


def _memory(node: fx.Node) -> set[int]:
    """Where the tensors of a node lie."""
    if node.op not in ("call_function", "placeholder"):
        return set()
    return {storage_of(t) for t in tree_leaves(node.meta.get("val")) if isinstance(t, Tensor)}


def _written(node: fx.Node) -> fx.Node:
    """What an operator writes to: its first argument."""
    (first, *others) = written_by(node)
    if others or not node.args or node.args[0] is not first:
        raise NoProgramError(f"{node.target} writes to something else than its first argument")
    return first


def _replace(node: fx.Node, written: fx.Node, order: dict[fx.Node, int]) -> None:
    target: Any = node.target
    packet, _, overload = str(target).removeprefix("aten.").partition(".")
    found = getattr(getattr(torch.ops.aten, packet.removesuffix("_"), None), overload, None)
    if found is None or not packet.endswith("_") or not _gives_the_same(found, node):
        raise NoProgramError(f"{target} has no form that gives a new tensor")
    node.target = found
    for user in list(written.users):
        if order[user] > order[node]:
            user.replace_input_with(written, node)


def _gives_the_same(function: Any, node: fx.Node) -> bool:
    """Whether shape and dtype are those of the tensor that was written to: a sum may promote its terms."""
    if not any(value_of(n).dtype != value_of(node).dtype for n in nodes_in(node.args)):
        return True
    args, kwargs = map_arg((node.args, node.kwargs), lambda n: _blank(value_of(n)))
    made, val = function(*args, **kwargs), value_of(node)
    return (made.shape, made.dtype) == (val.shape, val.dtype)


def _blank(val: Tensor) -> Tensor:
    return torch.empty_strided(val.shape, val.stride(), dtype=val.dtype, device="meta")
