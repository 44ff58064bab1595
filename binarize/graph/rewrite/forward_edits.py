"""Changes of modules' own forwards: sums, activations and layer scale that are replaced or removed."""

from __future__ import annotations

import copy as copying
import dataclasses
import functools
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_arg

from binarize.errors import RewriteError, TraceError
from binarize.graph.forward_helpers import require_default, require_extra, require_list, require_value
from binarize.graph.hooks import has_hooks, take_hooks
from binarize.graph.plan import Edit, Plan
from binarize.graph.rewrite.attention import binarize_attention
from binarize.graph.rewrite.generated_forward import install
from binarize.graph.rewrite.module_swaps import new_activation, reference_of
from binarize.graph.rewrite.opened_layer import take_apart
from binarize.graph.trace.layer_step import find_layer_step
from binarize.graph.trace.module_graph import Signature, acts, for_both_modes, trace_module
from binarize.layers.norm import batch_norm
from binarize.methods.base import Method
from binarize.methods.forms import Form


def edit_forwards(
    plan: Plan, model: nn.Module, method: Method, graphs: dict[str, fx.Graph], forms: dict[str, Form]
) -> dict[str, nn.Module]:
    """Rewrite the forward of each module that owns a sum, an activation or a layer scale that is removed.

    Returns:
        The float layers whose own forwards are among them, by path; their forms are added to `forms`.
    """
    taken_out: dict[str, nn.Module] = {}
    by_owner: dict[str, list[Edit]] = {}
    for edit in plan.edits:
        by_owner.setdefault(edit.owner, []).append(edit)
    for owner, edits in by_owner.items():
        module = model.get_submodule(owner)
        told = {item.name: getattr(edits[0], item.name) for item in dataclasses.fields(Signature)}
        signature = Signature(**told)
        try:
            if owner in graphs:
                graph = copying.deepcopy(graphs[owner])
            else:
                graph = for_both_modes(module, trace_module(module, signature)).graph
        except TraceError as error:
            raise RewriteError(f"{owner}: {error}; it could be traced when the plan was made.") from None
        asked = _asked_for(module, graph, signature)
        layer = next((edit.node for edit in edits if edit.action == "layer"), None)
        if layer is not None:
            forms[owner] = find_layer_step(graph, module).form
            taken_out[owner] = take_apart(module, forms[owner], _free_name(module, "binary"))
        before = _parameters_read(graph)
        alone = {node for node in graph.nodes if node.op == "call_module" and not node.users}
        nodes = {node.name: node for node in graph.nodes}
        for edit in edits:
            node = nodes.get(edit.node)
            if node is None:
                raise RewriteError(
                    f"{owner}: its forward has no step {edit.node!r}; plan again for this model."
                )
            _edit_node(graph, node, edit, module, method)
        _guard(graph, owner, signature, asked)
        graph.eliminate_dead_code(is_impure_node=functools.partial(_has_to_stay, module, alone))
        for name in before - _parameters_read(graph):
            if "." not in name and name in module._parameters:
                module._parameters[name] = None  # layer scale that nothing reads any more
        install(module, graph)
    return taken_out


def _free_name(module: nn.Module, name: str) -> str:
    while hasattr(module, name):
        name += "_"
    return name


def _asked_for(module: nn.Module, graph: fx.Graph, signature: Signature) -> set[str]:
    """Arguments of the example that the forward tests for None: without them it does something else."""
    asked = set()
    for node in graph.nodes:
        if node.op != "placeholder" or node.target in signature.fixed or node.args != (None,):
            continue
        name = str(node.target)
        without = dataclasses.replace(signature, fixed=(*signature.fixed, name))
        try:
            other = for_both_modes(module, trace_module(module, without)).graph
        except TraceError:
            asked.add(name)
        else:
            if _steps(graph, name) != _steps(other, name):
                asked.add(name)
    return asked


def _steps(graph: fx.Graph, absent: str) -> list[Any]:
    """The steps of a graph, as text, with None for the argument `absent`."""
    steps = []
    for node in graph.nodes:
        told = map_arg(
            (node.args, node.kwargs),
            lambda n: None if n.op == "placeholder" and n.target == absent else n.name,  # type: ignore[arg-type]
        )
        steps.append((node.op, node.name, str(node.target), str(told)))
    return steps


def _guard(graph: fx.Graph, owner: str, signature: Signature, asked: set[str]) -> None:
    """Refuse arguments of the forward that the graph was not made for."""
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    if not placeholders:
        return
    lists = {name: (kind, length) for name, kind, length in signature.lists}
    for node in placeholders:
        name = str(node.target)
        where = f"{owner or 'forward'}: {name}"
        with graph.inserting_after(node):  # before a value is taken out of it
            if name.startswith("**"):
                given = (dict(signature.constants), list(signature.tensors))
                graph.call_function(require_extra, (node, *given, where))
            elif name.startswith("*"):
                length = lists.get(name[1:], ("tuple", 0))[1]
                graph.call_function(require_list, (node, "tuple", length, where))
            elif name in signature.fixed:
                graph.call_function(require_default, (node, node.args[0], where))
            elif name in lists:
                graph.call_function(require_list, (node, *lists[name], where))
            elif name in asked:
                graph.call_function(require_value, (node, where))


def _edit_node(graph: fx.Graph, node: fx.Node, edit: Edit, module: nn.Module, method: Method) -> None:
    if edit.action == "norm":
        return _norm_behind(graph, node, edit, module)
    if edit.action == "attention":
        return binarize_attention(graph, node, edit, module, method)
    if edit.action == "activation" and edit.activation is not None:
        name = edit.activation.path
        reference = next(module.parameters(), torch.empty(0))
        new = new_activation(edit.activation, method).to(reference.device, reference.dtype)
        if node.op == "call_module":  # shared by several places; each gets its own now
            take_hooks(new, module.get_submodule(str(node.target)))
        module.add_module(name, new)
        with graph.inserting_before(node):
            value: Any = graph.call_module(name, (node.args[0],))
    elif edit.action == "layer":
        known: Any = module
        given = node.args[0] if node.args else node.kwargs["input"]
        with graph.inserting_before(node):
            value = graph.call_module(known.binary_name, (given,))
    else:
        value = node.args[edit.keep if edit.action == "drop" else 0]
    if not isinstance(value, fx.Node):
        raise RewriteError(f"{edit.owner}.{edit.node}: argument {edit.keep} is not a tensor; plan again.")
    node.replace_all_uses_with(value)
    graph.erase_node(node)
    return None


def _norm_behind(graph: fx.Graph, node: fx.Node, edit: Edit, module: nn.Module) -> None:
    """Call a new BatchNorm on the value of a step; all its users read the norm's result."""
    if edit.activation is None:
        raise RewriteError(f"{edit.owner}.{edit.node}: the plan does not describe its norm; plan again.")
    swap, reference = edit.activation, reference_of(module, "")
    new = batch_norm(swap.channels, dim=swap.dim, spatial=swap.spatial)
    module.add_module(swap.path, new.to(reference.device, reference.dtype).train(module.training))
    with graph.inserting_after(node):
        normed = graph.call_module(swap.path, ())
    node.replace_all_uses_with(normed)
    normed.args = (node,)


def _has_to_stay(module: nn.Module, alone: set[fx.Node], node: fx.Node) -> bool:
    """Whether a step must stay even if nothing uses its result; results of `alone` were never used."""
    if node.op == "call_module":
        return node in alone or has_hooks(module.get_submodule(str(node.target)))
    return acts(node)


def _parameters_read(graph: fx.Graph) -> set[str]:
    return {str(node.target) for node in graph.nodes if node.op == "get_attr"}
