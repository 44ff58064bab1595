"""What is computed from constants alone is computed once: tables of biases, masks, weights.

A program is made again when a parameter or buffer changes, so that these stay what they would be.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves

from binarize.runtime.program.graph import ProgramGraph, nodes_in, value_of, written_by
from binarize.runtime.program.lowering import storage_of

aten = torch.ops.aten
_OF_SHAPES = {
    aten.new_zeros.default,
    aten.new_ones.default,
    aten.new_full.default,
    aten.new_empty.default,
    aten.zeros_like.default,
    aten.ones_like.default,
    aten.full_like.default,
    aten.empty_like.default,
}
"""They read no values of their first argument."""
_MOST = 1 << 26
"""Bytes of a tensor that is kept instead of computed."""


def constants(program: ProgramGraph) -> None:
    """Replace what other operators read of constant tensors by constants."""
    excluded: set[fx.Node] = set()
    with torch.no_grad():
        while (found := _Folding(program, excluded).run()) is None:
            pass
    order = [n for n in program.graph.nodes if n in found]
    for node in order:
        value = found[node]
        readers = [n for n in node.users if n not in found and n.op != "output"]
        if not isinstance(value, Tensor) or not readers:
            continue
        made = program.constant(value.detach())
        made.meta["val"] = node.meta["val"]
        for reader in readers:
            reader.replace_input_with(node, made)
        program.taken("constants", node)
    _drop(program, found, order)


def _drop(program: ProgramGraph, values: dict[fx.Node, Any], order: list[fx.Node]) -> None:
    """Drop what is not needed any more, with its writes; what the network returns it makes at each call."""
    returned = {
        storage_of(t)
        for node in nodes_in(program.output.args)
        for t in tree_leaves(values.get(node))
        if isinstance(t, Tensor)
    }
    for node in reversed(order):
        held = {storage_of(t) for t in tree_leaves(values[node]) if isinstance(t, Tensor)}
        if not node.users and not held & returned:
            program.graph.erase_node(node)


class _Folding:
    """One attempt: values of all nodes that depend on nothing else.

    Args:
        program: is not changed.
        excluded: nodes that are left as they are; `run` adds to them where it returns None.
    """

    def __init__(self, program: ProgramGraph, excluded: set[fx.Node]) -> None:
        self._program, self._excluded = program, excluded
        self._given = {storage_of(t) for t in program.constants.values()}
        self._values: dict[fx.Node, Any] = {}
        self._makers: dict[int, fx.Node] = {}  # of memory
        self._read: set[int] = set()  # memory that operators outside have read

    def run(self) -> dict[fx.Node, Any] | None:
        """Values by node; None if one more node had to be excluded."""
        for node in self._program.graph.nodes:
            if node.op != "call_function":
                continue
            sources = list(nodes_in((node.args, node.kwargs)))
            read = sources[1:] if node.target in _OF_SHAPES else sources
            known = all(n in self._values or n in self._program.constants for n in read)
            written = self._written(node)
            if not known or not self._may_fold(node, written):
                if not self._leave(sources, written):
                    return None
                continue
            if written & self._read:
                self._excluded |= {self._makers[memory] for memory in written & self._read}
                return None
            self._compute(node)
        return self._values

    def _value(self, node: fx.Node) -> Any:
        return self._values[node] if node in self._values else self._program.constants[node]

    def _value_or_blank(self, node: fx.Node) -> Any:
        if node in self._values or node in self._program.constants:
            return self._value(node)
        val = value_of(node)
        return torch.empty_strided(val.shape, val.stride(), dtype=val.dtype)

    def _written(self, node: fx.Node) -> set[int]:
        """The memory of constants that an operator writes to."""
        targets = [n for n in written_by(node) if n in self._values or n in self._program.constants]
        return {storage_of(t) for n in targets for t in tree_leaves(self._value(n)) if isinstance(t, Tensor)}

    def _may_fold(self, node: fx.Node, written: set[int]) -> bool:
        tags = getattr(node.target, "tags", ())
        if node in self._excluded or written & self._given or torch.Tag.nondeterministic_seeded in tags:
            return False
        made = [t for t in tree_leaves(node.meta.get("val")) if isinstance(t, Tensor)]
        return bool(made) and sum(t.numel() * t.element_size() for t in made) <= _MOST

    def _leave(self, sources: list[fx.Node], written: set[int]) -> bool:
        """Note what a node that stays reads; False if it writes to what was computed here."""
        if made := written & self._makers.keys():
            self._excluded |= {self._makers[memory] for memory in made}
            return False
        for source in sources:
            if source in self._values:
                self._read |= {
                    storage_of(t) for t in tree_leaves(self._values[source]) if isinstance(t, Tensor)
                }
        return True

    def _compute(self, node: fx.Node) -> None:
        args, kwargs = map_arg((node.args, node.kwargs), self._value_or_blank)
        function: Any = node.target
        value = function(*args, **kwargs)
        self._values[node] = value
        for tensor in tree_leaves(value):
            if isinstance(tensor, Tensor) and storage_of(tensor) not in self._given:
                self._makers.setdefault(storage_of(tensor), node)
