"""The graph of a program while passes rewrite it, and what was fused or why not."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from binarize.runtime import ops
from binarize.runtime.program.capture import Captured
from binarize.runtime.program.recorded import note_strides

_MODULES = "nn_module_stack"
"""What torch.export notes for a node: path and class of the modules that called each other, by name."""


COMPUTED = "its weights are computed at each call, or are inputs"


@dataclass(frozen=True)
class Chance:
    """A place where a pass could fuse something.

    Attributes:
        fusion: name of the pass.
        place: path of the module whose operator is, or would be, fused; the node's name if it has none.
        reason: why it is not fused; empty if it is.
    """

    fusion: str
    place: str
    reason: str = ""


@dataclass
class ProgramGraph:
    """What passes work on.

    Every node has its fake tensor (or several) in meta `val`: shapes and dtypes; strides are planned later.

    Attributes:
        graph: placeholders for constants and inputs, then operators.
        constants: tensors by placeholder; also those that passes made of others.
        inputs: placeholders of the inputs; None where an argument is not a tensor.
        out_spec: see `Captured`.
        precision: in which maps may be stored, see `RuntimeOptions`.
        chances: what the passes found.
    """

    graph: fx.Graph
    constants: dict[fx.Node, Tensor]
    inputs: tuple[fx.Node | None, ...]
    out_spec: Any
    precision: str = "float32"
    chances: list[Chance] = field(default_factory=list)
    _found: list[tuple[str, fx.Node, str]] = field(default_factory=list, repr=False)

    @classmethod
    def of(cls, captured: Captured, precision: str = "float32") -> ProgramGraph:
        """The graph of a run, before any pass."""
        note_strides(captured.graph)
        return cls(captured.graph, dict(captured.constants), captured.inputs, captured.out_spec, precision)

    @property
    def output(self) -> fx.Node:
        """The node that holds the results."""
        return next(iter(reversed(self.graph.nodes)))

    def calls(self, *targets: Any) -> list[fx.Node]:
        """Nodes that call one of these operators, in their order."""
        return [n for n in self.graph.nodes if n.op == "call_function" and n.target in targets]

    def constant(self, tensor: Tensor, name: str = "constant") -> fx.Node:
        """A node that stands for a tensor which a pass made of constants."""
        with self.graph.inserting_before(next(iter(self.graph.nodes))):
            node = self.graph.placeholder(name)
        node.meta["val"] = tensor
        self.constants[node] = tensor
        return node

    def tensor(self, value: Any) -> Tensor | None:
        """The constant that a node stands for; None for anything else."""
        return self.constants.get(value) if isinstance(value, fx.Node) else None

    def known(self, *values: Any) -> bool:
        """Whether optional arguments are float32 constants or not there: not computed, and no inputs."""
        held = [(value, self.tensor(value)) for value in values]
        return all(v is None or (t is not None and t.dtype == torch.float32) for v, t in held)

    def call(self, target: Any, *args: Any, like: Tensor, shape: tuple[int, ...]) -> fx.Node:
        """A new node, where the graph inserts, that gives a tensor of this shape and the dtype of `like`."""
        made = self.graph.call_function(target, args)
        made.meta["val"] = like.new_empty(shape)
        return made

    def replace(self, node: fx.Node, by: fx.Node) -> None:
        """Replace `node` by `by`."""
        for made in (by, *(by.all_input_nodes if by.target is operator.getitem else ())):
            if _MODULES in node.meta:
                made.meta.setdefault(_MODULES, node.meta[_MODULES])
        node.replace_all_uses_with(by)
        self.graph.erase_node(node)

    def taken(self, fusion: str, node: fx.Node) -> None:
        """Note that a pass fused this node, or something with it."""
        self._found.append((fusion, node, ""))

    def missed(self, fusion: str, node: fx.Node, reason: str) -> None:
        """Note that a pass could not fuse this node, and why: users of the network read it."""
        self._found.append((fusion, node, reason))

    def tidy(self) -> None:
        """Drop nodes without users and check the graph."""
        self.chances += [Chance(fusion, place_of(node), reason) for fusion, node, reason in self._found]
        self._found.clear()
        for node in reversed(list(self.graph.nodes)):
            if node.op in ("call_function", "placeholder") and not node.users and node not in self.inputs:
                if written_by(node):
                    continue
                self.graph.erase_node(node)
                self.constants.pop(node, None)
        self.graph.lint()


def place_of(node: fx.Node) -> str:
    """Path of the module that a node belongs to; its name if that is not known.

    A node that a pass made belongs to the module of what it took the place of.
    """
    held = node.meta.get(_MODULES)
    path = str(list(held.values())[-1][0]) if held else ""
    return re.sub(r"@\d+$", "", path) or node.name  # a module's second call has a number


def operator_name(node: fx.Node) -> str:
    """What a node calls, without namespace and overload."""
    return str(node.target).partition(".")[2].partition(".")[0]


def value_of(node: Any) -> Any:
    """The fake tensor (or several) of a node."""
    return node.meta["val"] if isinstance(node, fx.Node) else node


def only_user(node: fx.Node) -> fx.Node | None:
    """The only node that uses a result; None if there are none or several."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def layer_of(value: Any) -> tuple[fx.Node | None, fx.Node | None]:
    """The packed layer whose result a node is, and the node of that result."""
    return made_by(value, ops.layer)


def made_by(value: Any, *targets: Any) -> tuple[fx.Node | None, fx.Node | None]:
    """The operator, one of these, whose first result a node is, and the node of that result."""
    made = value.args[0] if isinstance(value, fx.Node) and value.target is operator.getitem else None
    if isinstance(made, fx.Node) and made.target in targets and value.args[1] == 0:
        return made, value
    return None, None


def first_result(node: fx.Node) -> fx.Node | None:
    """The node of an operator's first result, if it has several; None if nothing reads it, or several do."""
    found = [user for user in node.users if user.target is operator.getitem and user.args[1] == 0]
    return found[0] if len(found) == 1 else None


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Shape of a node's tensor; empty if it has several."""
    val = value_of(node)
    return tuple(val.shape) if isinstance(val, Tensor) else ()


def is_float(node: Any) -> bool:
    """Whether a node is one float32 tensor on the CPU."""
    val = value_of(node)
    return isinstance(val, Tensor) and val.dtype == torch.float32 and val.device.type == "cpu"


def nodes_in(value: Any) -> Iterable[fx.Node]:
    """Nodes in an argument, whatever lists they are in."""
    if isinstance(value, fx.Node):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from nodes_in(part)
    elif isinstance(value, dict):
        yield from nodes_in(list(value.values()))


def written_by(node: fx.Node) -> list[fx.Node]:
    """The arguments that an operator writes to, as its schema says."""
    schema: Any = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None or not schema.is_mutable:
        return []
    found: list[fx.Node] = []
    for i, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = node.args[i] if i < len(node.args) else node.kwargs.get(argument.name)
            found += nodes_in(given)
    return found
