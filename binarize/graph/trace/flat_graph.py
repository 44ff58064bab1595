"""Builds the flat graph of a run: a node for each tensor, and where in the model the run is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, fx, nn
from torch.utils.weak import WeakTensorKeyDictionary

from binarize.graph.trace.call_signature import tensors
from binarize.graph.trace.module_graph import acts
from binarize.graph.trace.recording import Recording
from binarize.graph.trace.roles import Role


class FlatGraph:
    """The graph so far, and where the run is.

    Attributes:
        recording: with the graph.
        nodes: by the tensors that they stand for. Weak: a run on real tensors that kept all would take
            as much memory as training.
        owners: paths of the modules whose forwards run now, the innermost last.
        module_steps: for each of them, the node of its own graph that runs now.
        leaf_depth: nesting depth of running modules that are recorded as single steps.
        leaf: path of the outermost of them.
        made: nodes by owner and name of the step that made them.
        tensor_names: names of the model's parameters and buffers, by id.
        paused: a module's forward is traced: what it calls is not part of the run.
    """

    def __init__(self, model: nn.Module, recording: Recording) -> None:
        self.recording = recording
        self.graph = recording.graph
        self.nodes = WeakTensorKeyDictionary()
        self.owners: list[str] = [""]
        self.module_steps: list[fx.Node | None] = [None]
        self.leaf_depth = 0
        self.leaf = ""
        self.made: dict[tuple[str, str], list[fx.Node]] = {}
        self.tensor_names = {id(t): name for name, t in (*model.named_parameters(), *model.named_buffers())}
        self.paused = False

    def bind(self, tensor: Tensor, node: fx.Node, role: Role, owner: str) -> None:
        """Let `node` stand for `tensor`."""
        node.meta.update(role=role, owner=owner, step=None, shape=tuple(tensor.shape), constant=False)
        self.nodes[tensor] = node

    def node_args(self, value: Any) -> Any:
        """Arguments for the flat graph: tensors become nodes, other objects become their repr."""
        if isinstance(value, Tensor):
            return self.node_of(value)
        if isinstance(value, (tuple, list)):
            return tuple(self.node_args(v) for v in value)
        if isinstance(value, dict):
            return {str(k): self.node_args(v) for k, v in value.items()}
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        return repr(value)

    def node_of(self, tensor: Tensor) -> fx.Node:
        """The node that stands for `tensor`: of a tensor from outside of the run, a constant."""
        node = self.nodes.get(tensor)
        if node is None:
            name = self.tensor_names.get(id(tensor))
            node = self.graph.create_node("get_attr", name or "constant", (), {})
            if name:
                self.recording.read.add(name)
            self.bind(tensor, node, "other", self.owners[-1])
            node.meta["constant"] = True
        return node

    def _step_name(self, node: fx.Node) -> str | None:
        """The name of a step in its module's own graph; what a hook computes during a call has none."""
        step = self.module_steps[-1]
        calls = step is not None and step.op == "call_module"
        return step.name if step is not None and calls == (node.op == "call_module") else None

    def add_result(self, result: Any, node: fx.Node, role: Role, step: str | None = None) -> None:
        """Let `node` stand for the tensors of `result`; several have a node each behind it."""
        outputs = tensors(result)
        constant = bool(node.all_input_nodes) and all(n.meta["constant"] for n in node.all_input_nodes)
        node.meta.update(
            role=role,
            owner=self.owners[-1],
            step=step or self._step_name(node),
            constant=constant,
            shape=tuple(outputs[0].shape) if outputs else (),
        )
        if (step := node.meta["step"]) is not None:
            self.made.setdefault((node.meta["owner"], step), []).append(node)
        if isinstance(result, Tensor):
            self.nodes[result] = node
            return
        for index, tensor in enumerate(outputs):
            item = self.graph.create_node("call_function", _item, (node, index), {})
            item.meta.update(node.meta, role="split", shape=tuple(tensor.shape))
            self.nodes[tensor] = item

    def note_written(self, written: Iterable[Tensor]) -> None:
        """Note parameters and buffers that the forward which runs now writes to."""
        if self.paused:  # the trace records its own writes
            return
        writer = self.leaf if self.leaf_depth else self.owners[-1]
        for tensor in written:
            name = self.tensor_names.get(id(tensor))
            if name is not None:
                self.recording.written.setdefault(name, writer)

    def erase_unused(self) -> None:
        """Erase steps whose results are not used: what hooks compute about a signal is not on its path."""
        for node in reversed(self.graph.nodes):
            if node.op in ("call_function", "get_attr") and not node.users and not acts(node):
                self.graph.erase_node(node)


def _item(values: Any, index: int) -> Any:
    """Stands for an element of a step's several results."""
    return values[index]
