"""A deployed network on inputs of one signature, as a flat torch.fx graph of operators.

`torch.export` runs the network on fake tensors: packed layers are one operator each (`binarize.runtime.ops`),
the rest is torch's own. What it cannot follow (control flow that depends on values, state that a forward
changes) has no program, and runs as modules.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves

from binarize.graph.trace.outside_state import outside_kept
from binarize.graph.trace.preserve_state import same_random_state
from binarize.runtime.program.reasons import NoProgramError
from binarize.runtime.program.twin import twin
from binarize.runtime.tracing import as_operators

__all__ = ["Captured", "NoProgramError", "capture"]


_LOGGERS = ("torch.export", "torch.fx.experimental.symbolic_shapes", "torch.fx.experimental.recording")


@dataclass(frozen=True)
class Captured:
    """One run as a graph.

    Attributes:
        graph: placeholders for parameters, buffers and inputs, then operators; each node's meta `val` is a
            fake tensor (or several), with shape and strides.
        constants: parameters, buffers and constants by the placeholder that stands for them.
        inputs: placeholders of the network's tensors, in the order of its flattened arguments; None for an
            argument that is not a tensor.
        out_spec: how the output's leaves make what the network returns (`torch.utils._pytree`).
        outputs: the leaves: nodes, or values that are not tensors.
    """

    graph: fx.Graph
    constants: dict[fx.Node, Tensor]
    inputs: tuple[fx.Node | None, ...]
    out_spec: Any
    outputs: tuple[Any, ...]

    def run(self, inputs: Sequence[Tensor | None]) -> list[Any]:
        """The leaves of the output, each operator called one after the other."""
        values: dict[fx.Node, Any] = dict(self.constants)
        values |= {node: x for node, x in zip(self.inputs, inputs, strict=True) if node is not None}
        last = {read: node for node in self.graph.nodes for read in node.all_input_nodes}
        for node in self.graph.nodes:
            if node.op == "call_function":
                args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
                values[node] = node.target(*args, **kwargs)
                for read in node.all_input_nodes:  # maps of a dense network are large
                    if last[read] is node:
                        del values[read]
        return [values[leaf] if isinstance(leaf, fx.Node) else leaf for leaf in self.outputs]


def capture(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Captured:
    """The graph of one run of `model`, which other threads may call meanwhile.

    Raises:
        NoProgramError: there is no such graph.
    """
    recorded = twin(model)
    with same_random_state(), outside_kept(recorded.modules()):
        return _taken_apart(_export(recorded, args, kwargs))


def _export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    loggers = [(logger, logger.level) for logger in map(logging.getLogger, _LOGGERS)]
    try:
        with torch.no_grad(), as_operators(), warnings.catch_warnings(), _silent():
            warnings.simplefilter("ignore")  # of torch about its own exporter
            for logger, _ in loggers:
                logger.setLevel(logging.CRITICAL)  # what fails is a reason, and no event
            return torch.export.export(model, args, kwargs, strict=False)
    except Exception as error:  # whatever code of a network, or the exporter, raises
        text = str(error).strip().splitlines()
        raise NoProgramError(
            f"torch.export: {type(error).__name__}: {text[0][:200] if text else ''}"
        ) from error
    finally:
        for logger, level in loggers:
            logger.setLevel(level)


class _Others:
    """sys.stderr for all threads but one."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._silent = stream, threading.get_ident()

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self._silent else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _silent() -> contextlib.redirect_stderr[Any]:
    """Meanwhile this thread writes nothing to sys.stderr: the exporter prints the graph where it fails."""
    return contextlib.redirect_stderr(_Others(sys.stderr))


def _taken_apart(program: Any) -> Captured:
    graph: fx.Graph = program.graph
    for node in graph.nodes:
        _check(node)
    placeholders = {node.name: node for node in graph.nodes if node.op == "placeholder"}
    constants: dict[fx.Node, Tensor] = {}
    inputs: list[fx.Node | None] = []
    for spec in program.graph_signature.input_specs:
        node = placeholders[spec.arg.name]
        if spec.kind == InputKind.USER_INPUT:
            inputs.append(node if isinstance(node.meta.get("val"), Tensor) else None)
        elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            held = program.state_dict if spec.target in program.state_dict else program.constants
            constants[node] = held[spec.target]
        elif spec.kind == InputKind.CONSTANT_TENSOR:
            constants[node] = program.constants[spec.target]
        else:
            raise NoProgramError(f"its graph has an input of kind {spec.kind.name}")
    for spec in program.graph_signature.output_specs:
        if spec.kind != OutputKind.USER_OUTPUT:
            raise NoProgramError(f"its forward writes to {spec.target}")
    (last,) = (node for node in graph.nodes if node.op == "output")
    return Captured(graph, constants, tuple(inputs), program.call_spec.out_spec, tuple(last.args[0]))


def _check(node: fx.Node) -> None:
    if node.op not in ("placeholder", "call_function", "output"):
        raise NoProgramError(f"its forward has a block that torch.export records as a graph: {node.name}")
    for value in tree_leaves(node.meta.get("val")):
        sizes = value.shape if isinstance(value, Tensor) else (value,)
        if any(isinstance(size, (torch.SymInt, torch.SymFloat, torch.SymBool)) for size in sizes):
            raise NoProgramError(f"sizes depend on values of tensors: {node.name}")
