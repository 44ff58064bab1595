"""Modules during a recorded run: each is one step, or runs by the steps of its own graph, or as it is."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn

from binarize.errors import TraceError
from binarize.graph.trace.call_signature import (
    attribute,
    containers,
    plain_values,
    signature_of,
    tensors,
    trace_with_numbers,
)
from binarize.graph.trace.containers import same_items
from binarize.graph.trace.flat_graph import FlatGraph
from binarize.graph.trace.function_calls import NeedsMemoryError
from binarize.graph.trace.layer_step import find_layer_step
from binarize.graph.trace.module_graph import ModuleGraph, Signature
from binarize.graph.trace.roles import Role, module_role
from binarize.graph.trace.step_shapes import result_of
from binarize.methods.forms import Form


class GraphMismatchError(Exception):
    """A module's graph does not hold for real values: its forward asks for them, and symbols answered."""

    def __init__(self, path: str, error: Exception) -> None:
        text = str(error).strip().splitlines()
        super().__init__(
            f"its graph fails on what it is given: {type(error).__name__}: {text[0][:80] if text else ''}"
        )
        self.path = path


class ModuleCalls:
    """Records the calls of a model's modules.

    Args:
        model: that runs.
        run: the graph that steps are added to.
        module_graphs: trace each module's forward and run it by its own graph.
    """

    def __init__(self, model: nn.Module, run: FlatGraph, *, module_graphs: bool) -> None:
        self._model = model
        self._run = run
        self._traces_modules = module_graphs
        self._patterns: dict[str, Signature] = {}

    @contextlib.contextmanager
    def wrapped_forwards(self) -> Iterator[None]:
        """Give every module an instance attribute `forward` that records; hooks keep running around it."""
        wrapped: list[tuple[nn.Module, bool, Any, Any]] = []
        try:
            for path, module in self._model.named_modules():
                if isinstance(module, torch.jit.ScriptModule):
                    continue
                had = "forward" in module.__dict__
                old = module.__dict__.get("forward")
                compiled = module.__dict__.get("_compiled_call_impl")
                role = module_role(module)
                original = module.forward
                if role is None:
                    new = self._container(path, module, original, had)
                elif path in self._run.recording.own:
                    new = self._own_forward(path, module, role, original)
                else:
                    new = self._step(path, role, original)
                wrapped.append((module, had, old, compiled))
                module.__dict__["forward"] = new
                if compiled is not None:
                    module.__dict__["_compiled_call_impl"] = None
            yield
        finally:
            for module, had, old, compiled in wrapped:
                if had:
                    module.__dict__["forward"] = old
                else:
                    module.__dict__.pop("forward", None)
                if compiled is not None:
                    module.__dict__["_compiled_call_impl"] = compiled

    def _step(self, path: str, role: Role, original: Any) -> Any:
        def forward(*args: Any, **kwargs: Any) -> Any:
            if self._run.leaf_depth or self._run.paused:
                return original(*args, **kwargs)
            self._run.recording.calls[path] = self._run.recording.calls.get(path, 0) + 1
            self._run.leaf_depth, self._run.leaf = self._run.leaf_depth + 1, path
            try:
                result = result_of(self._run.recording.fake, role, original, args, kwargs)
            finally:
                self._run.leaf_depth -= 1
            if role == "identity":
                return result
            node = self._run.graph.create_node(
                "call_module", path, self._run.node_args(args), self._run.node_args(kwargs)
            )
            node.meta["input_shape"] = next((tuple(t.shape) for t in tensors((args, kwargs))), ())
            self._run.add_result(result, node, role)
            return result

        return forward

    def _container(self, path: str, module: nn.Module, original: Any, patched: bool) -> Any:
        def forward(*args: Any, **kwargs: Any) -> Any:
            # paused: a forward that calls another's `.forward` is being traced
            if self._run.leaf_depth or self._run.paused:
                return original(*args, **kwargs)
            self._run.recording.calls[path] = self._run.recording.calls.get(path, 0) + 1
            self._run.owners.append(path)
            self._run.module_steps.append(None)
            try:
                traced = self._traces_modules and not patched
                own_graph = self._module_graph(path, module, args, kwargs) if traced else None
                if own_graph is None:
                    return original(*args, **kwargs)
                try:
                    return self._interpret(own_graph, module, args, kwargs)
                except (GraphMismatchError, NeedsMemoryError):
                    raise
                except Exception as error:
                    raise GraphMismatchError(path, error) from error
            finally:
                self._run.owners.pop()
                self._run.module_steps.pop()

        return forward

    def _own_forward(self, path: str, module: nn.Module, role: Role, original: Any) -> Any:
        """A layer whose forward does more: run step by step if it can be, or else one step.

        So is a layer called with keyword arguments: binary layers do not take them.
        """
        container, step = self._container(path, module, original, False), self._step(path, role, original)
        plain = isinstance(self._run.recording.own[path], Form)

        def forward(*args: Any, **kwargs: Any) -> Any:
            whole = self._run.leaf_depth or self._run.paused or (plain and not kwargs)
            whole = whole or not self._runs_by_steps(path, module, args, kwargs)
            return (step if whole else container)(*args, **kwargs)

        return forward

    def _runs_by_steps(
        self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> bool:
        found = self._run.recording.layer_steps.get(path)
        if not isinstance(found, str):
            own_graph = self._module_graph(path, module, args, kwargs)
            if own_graph is None:  # this is a layer, so it stays float; it is not opaque
                found = self._run.recording.opaque.pop(path)
            elif found is None:
                try:
                    found = find_layer_step(own_graph.graph, module)
                except TraceError as error:
                    found = str(error)
            self._run.recording.layer_steps[path] = found
        return not isinstance(found, str)

    def _module_graph(
        self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> ModuleGraph | None:
        if (
            isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict))
            or path in self._run.recording.opaque
        ):
            return None
        if isinstance(module, fx.GraphModule):
            self._run.recording.opaque[path] = "is a graph module already"
            return None
        try:
            bound = inspect.signature(type(module).forward).bind(module, *args, **kwargs)
        except TypeError as error:
            raise TraceError(f"{path or 'the model'}: {error}") from None
        signature, others, odd = signature_of(module, bound)
        if odd:
            self._run.recording.opaque[path] = odd
            self._run.recording.module_graphs.pop(path, None)
            return None
        known = self._patterns.get(path)
        if known is not None:
            if known != signature:
                self._run.recording.opaque[path] = "is called with different arguments"
                self._run.recording.module_graphs.pop(path, None)
                return None
            return self._run.recording.module_graphs[path]
        self._run.paused = True  # fx meets this mode's functions with its proxies
        try:
            own_graph = trace_with_numbers(module, signature, others)
        except TraceError as error:
            self._run.recording.opaque[path] = str(error)
            return None
        finally:
            self._run.paused = False
        self._patterns[path] = signature
        self._run.recording.module_graphs[path] = own_graph
        return own_graph

    def _interpret(
        self, own_graph: ModuleGraph, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run `own_graph` on real values, each step knowing its node."""
        bound = inspect.signature(type(module).forward).bind(module, *args, **kwargs)
        bound.apply_defaults()
        env: dict[fx.Node, Any] = {}
        for node in own_graph.graph.nodes:
            if node.op == "placeholder":
                env[node] = bound.arguments[str(node.target).lstrip("*")]
                continue
            node_args = plain_values(node.args, env)
            node_kwargs = plain_values(node.kwargs, env)
            self._run.module_steps[-1] = node
            if node.op == "output":
                return node_args[0]
            if node.op == "get_attr":
                env[node] = attribute(module, str(node.target))
            elif node.op == "call_module":
                made = containers((node_args, node_kwargs))
                before = [copy.copy(value) for value in made]
                env[node] = module.get_submodule(str(node.target))(*node_args, **node_kwargs)
                if not all(map(same_items, made, before)):  # a graph makes a new one for each use
                    raise TraceError(f"{node.target} changes a list or dict that it is given")
            elif node.op == "call_method":
                env[node] = getattr(node_args[0], str(node.target))(*node_args[1:], **node_kwargs)
            else:
                env[node] = node.target(*node_args, **node_kwargs)  # type: ignore[operator]
            if env[node] is None and any(user.op != "output" for user in node.users):
                raise TraceError("its forward computes with None, which symbols never are")
        raise TraceError("a graph without output")
