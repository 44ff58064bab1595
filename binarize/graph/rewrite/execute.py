"""Executing a plan on a model, and `apply`: plan and execute on a copy."""

from __future__ import annotations

import copy as copying
import dataclasses
import functools
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_arg

from binarize.errors import RewriteError, TraceError
from binarize.graph.decide.planner import plan
from binarize.graph.decide.policy import Policy
from binarize.graph.forward_helpers import require_default, require_extra, require_list, require_value
from binarize.graph.hooks import has_hooks, take_hooks, without_hooks
from binarize.graph.model_copy import copied
from binarize.graph.plan import Edit, Plan, Swap
from binarize.graph.rewrite.generated_forward import install
from binarize.graph.rewrite.module_slots import Places
from binarize.graph.rewrite.opened_layer import take_apart
from binarize.graph.trace.module_graph import Signature, acts, for_both_modes, trace_level
from binarize.graph.trace.own_forward import opening
from binarize.graph.trace.roles import fused_activation, fused_drop, is_batch_norm
from binarize.graph.wrappers import uncompiled
from binarize.layers import BinaryLayer
from binarize.layers.norm import batch_norm
from binarize.layers.normed import put_norm_in_front
from binarize.layers.recipe import METHODS
from binarize.methods.base import ActivationSite, Method
from binarize.methods.build import build, own_form, site_of
from binarize.methods.forms import Form
from binarize.random_state import drawing_from


def apply(
    model: nn.Module,
    method: str | Method = "bidense",
    *,
    policy: Policy | None = None,
    example_inputs: Any = None,
    generator: torch.Generator | None = None,
    **options: Any,
) -> nn.Module:
    """A binary copy of `model`; the given model is left untouched.

    The arguments are those of `plan` and `execute`. The copy has the class, methods, training flags and state
    dict prefixes of the model, its float weights as latent weights, and the executed plan as attribute
    `binarize_plan`. Parameters that modules share stay shared and frozen ones stay frozen; what the method
    adds (quantizers, norms, activations) is trainable. Hooks go on with what replaces their module. A
    compiled model gives a copy that is not.

    Raises:
        ConfigError: as `plan` and `execute`.
        TraceError: the model does not run on the inputs.
    """
    made = plan(model, method, policy=policy, example_inputs=example_inputs, **options)
    return execute(made, model, generator=generator)


def execute(
    plan: Plan, model: nn.Module, *, copy: bool = True, generator: torch.Generator | None = None
) -> nn.Module:
    """Do what `plan` says; the global random state is left alone.

    Args:
        plan: of this model or of one built alike.
        model: the float model.
        copy: work on a deep copy; False changes `model` itself.
        generator: of the CPU, for the start values that a method draws (bidense's a and k); by default they
            are the same in every call. `torch.default_generator` draws them from torch's global state.

    Raises:
        RewriteError: the model is not the one that was planned for.
        ConfigError: it cannot be copied, or the generator is none of the CPU.
    """
    with drawing_from(generator):
        return _executed(plan, model, copy)


def _executed(plan: Plan, model: nn.Module, copy: bool) -> nn.Module:
    method = METHODS.get(plan.method["name"]).create(**plan.method["options"])
    model = uncompiled(model)
    _check(plan, model)
    same = plan.traced is not None and plan.traced.model() is model
    graphs = plan.traced.graphs if same and plan.traced is not None else {}
    forms = dict(plan.traced.forms) if same and plan.traced is not None else {}
    result = copied(model) if copy else model
    opened = _edit(plan, result, method, graphs, forms)
    places = Places(result)
    _swap_layers(plan, result, method, places, opened, forms)
    for swap in plan.swaps:
        _swap(result, swap, method, places)
    _disable_fast_paths(result)
    result.binarize_plan = dataclasses.replace(plan, traced=None)  # type: ignore[assignment]
    return result


def _disable_fast_paths(model: nn.Module) -> None:
    """Keep torch's transformer layers from reading the float weights of converted children directly."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0  # what its forward asks before it takes the fused path
        elif isinstance(module, nn.TransformerEncoder):
            module.enable_nested_tensor = module.use_nested_tensor = False


def _check(plan: Plan, model: nn.Module) -> None:
    modules = dict(model.named_modules())
    for row in plan.rows:
        weight = getattr(modules.get(row.name), "weight", None)
        shape = tuple(weight.shape) if isinstance(weight, torch.Tensor) else None
        if row.weight_shape and shape != row.weight_shape:
            raise RewriteError(
                f"{row.name}: the plan was made for a weight of {row.weight_shape}, "
                f"{type(model).__name__} has {shape or 'no such layer'}; plan again for this model."
            )


def _edit(
    plan: Plan, model: nn.Module, method: Method, graphs: dict[str, fx.Graph], forms: dict[str, Form]
) -> dict[str, nn.Module]:
    """Rewrite the forward of each module that owns a sum, an activation or a layer scale that goes.

    Returns:
        The float layers whose own forwards are among them, by path; their forms are added to `forms`.
    """
    opened: dict[str, nn.Module] = {}
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
                graph = for_both_modes(module, trace_level(module, signature)).graph
        except TraceError as error:
            raise RewriteError(f"{owner}: {error}; it could be traced when the plan was made.") from None
        asked = _asked_for(module, graph, signature)
        layer = next((edit.node for edit in edits if edit.action == "layer"), None)
        if layer is not None:
            forms[owner] = opening(graph, module).form
            opened[owner] = take_apart(module, forms[owner], _free_name(module, "binary"))
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
    return opened


def _free_name(module: nn.Module, name: str) -> str:
    while hasattr(module, name):
        name += "_"
    return name


def _asked_for(module: nn.Module, graph: fx.Graph, signature: Signature) -> set[str]:
    """Arguments given in the example without which the forward does something else: it asks for None."""
    asked = set()
    for node in graph.nodes:
        if node.op != "placeholder" or node.target in signature.fixed or node.args != (None,):
            continue
        name = str(node.target)
        without = dataclasses.replace(signature, fixed=(*signature.fixed, name))
        try:
            other = for_both_modes(module, trace_level(module, without)).graph
        except TraceError:
            asked.add(name)
        else:
            if _steps(graph, name) != _steps(other, name):
                asked.add(name)
    return asked


def _steps(graph: fx.Graph, absent: str) -> list[Any]:
    """What a graph does, as text; None for the argument `absent`."""
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
        with graph.inserting_after(node):  # before something is taken out of it
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
    if edit.action == "activation" and edit.activation is not None:
        name = edit.activation.path
        reference = next(module.parameters(), torch.empty(0))
        new = _activation(edit.activation, method).to(reference.device, reference.dtype)
        if node.op == "call_module":  # shared by several places, each of which has its own now
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
        raise RewriteError(f"{edit.owner}.{edit.node}: argument {edit.keep} is no tensor; plan again.")
    node.replace_all_uses_with(value)
    graph.erase_node(node)
    return None


def _norm_behind(graph: fx.Graph, node: fx.Node, edit: Edit, module: nn.Module) -> None:
    """Call a new BatchNorm on the value of a step; all that use it use the norm's result."""
    if edit.activation is None:
        raise RewriteError(f"{edit.owner}.{edit.node}: the plan does not describe its norm; plan again.")
    swap, reference = edit.activation, _reference(module, "")
    new = batch_norm(swap.channels, dim=swap.dim, spatial=swap.spatial)
    module.add_module(swap.path, new.to(reference.device, reference.dtype).train(module.training))
    with graph.inserting_after(node):
        normed = graph.call_module(swap.path, ())
    node.replace_all_uses_with(normed)
    normed.args = (node,)


def _has_to_stay(module: nn.Module, alone: set[fx.Node], node: fx.Node) -> bool:
    """Whether a step is wanted even if nothing uses its result; nothing ever used that of those `alone`."""
    if node.op == "call_module":
        return node in alone or has_hooks(module.get_submodule(str(node.target)))
    return acts(node)


def _parameters_read(graph: fx.Graph) -> set[str]:
    return {str(node.target) for node in graph.nodes if node.op == "get_attr"}


def _swap_layers(
    plan: Plan,
    model: nn.Module,
    method: Method,
    places: Places,
    opened: dict[str, nn.Module],
    forms: dict[str, Form],
) -> None:
    ties: dict[int, list[nn.Module]] = {}
    for row in plan.converted:
        place: Any = model.get_submodule(row.name)
        layer: Any = opened.get(row.name, place)
        form = forms.get(row.name) or own_form(layer)
        context: Any = {"nonnegative": row.nonnegative, **dict(row.context)}
        site = site_of(layer, kind=row.site_kind or None, form=form, **context)  # type: ignore[arg-type]
        built = build(layer, method, site, bypass=row.bypass != "none", form=form)
        if row.absorbs is not None:
            _take_over(built, model.get_submodule(row.absorbs), layer)
        for earlier in ties.setdefault(id(layer.weight), []):
            _tie(built, earlier)
        ties[id(layer.weight)].append(built)
        if layer is place:
            places.replace(layer, built)
        else:
            place._modules[place.binary_name] = built


def _tie(built: nn.Module, earlier: nn.Module) -> None:
    """Share the pieces of one latent weight between two layers that are built of them alike."""
    layers, others = ([m for m in one.modules() if isinstance(m, BinaryLayer)] for one in (built, earlier))
    if [_cut(layer) for layer in layers] != [_cut(other) for other in others]:
        return  # the plan has a note
    for layer, other in zip(layers, others, strict=True):
        layer.weight = other.weight


def _cut(layer: BinaryLayer) -> tuple[type[nn.Module], torch.Size]:
    return type(layer), layer.weight.shape


def _take_over(built: Any, norm: nn.Module, layer: Any) -> None:
    """Give `built` the norm that stood behind the float layer, with its statistics."""
    if is_batch_norm(norm):
        taken: Any = built.norm
        if isinstance(norm, nn.SyncBatchNorm):  # its statistics go over all processes
            taken = built.norm = nn.SyncBatchNorm(norm.num_features, process_group=norm.process_group)
        elif taken is None:  # a method without a norm of its own
            taken = built.norm = batch_norm(layer.out_channels, dim=1, spatial=len(layer.kernel_size))
        for name in ("weight", "bias"):
            taken._parameters[name] = norm._parameters.get(name)
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            taken._buffers[name] = norm._buffers.get(name)
        for name in ("eps", "momentum", "affine", "track_running_stats"):
            setattr(taken, name, getattr(norm, name))
        taken.train(norm.training)
        if layer.bias is not None and built.own_bias is None and taken.running_mean is not None:
            # BN(conv + bias) with mean m is BN(conv) with mean m - bias.
            taken.running_mean.sub_(layer.bias.detach().to(taken.running_mean.dtype))
    else:
        built.norm = _twin(norm)


def _twin(module: nn.Module) -> nn.Module:
    """Another object with the same tensors: the first will be replaced wherever it is registered."""
    twin = copying.copy(module)
    twin._parameters = dict(module._parameters)
    twin._buffers = dict(module._buffers)
    return without_hooks(twin)  # what is put in the first's place has them


def _swap(model: nn.Module, swap: Swap, method: Method, places: Places) -> None:
    old: Any = model.get_submodule(swap.path)
    reference = _reference(model, swap.path)
    if swap.to == "identity":
        new: nn.Module = nn.Identity()
    elif swap.to == "batch_norm":
        new = batch_norm(swap.channels, dim=swap.dim, spatial=swap.spatial)
    elif swap.to == "input_norm":
        norm = batch_norm(swap.channels, dim=swap.dim, spatial=swap.spatial)
        put_norm_in_front(old, norm.to(reference.device, reference.dtype).train(old.training))
        return
    elif swap.to == "activation":
        new = _activation(swap, method)
    elif swap.to in ("inner_act", "no_inner_act"):
        inner: nn.Module = nn.Identity() if swap.to == "no_inner_act" else _activation(swap, method)
        take_hooks(inner, old.act)
        old.act = inner.to(reference.device, reference.dtype).train(old.training)
        return
    elif swap.to in ("unfuse", "drop_act"):
        own, drop = fused_activation(old), fused_drop(old)
        act = own if swap.own else (None if swap.to == "drop_act" else _activation(swap, method))
        if act is not None and own is not None and act is not own:
            take_hooks(act, own)
        parts = [part for part in (drop, act) if part is not None]
        new = nn.Identity() if not parts else parts[0] if len(parts) == 1 else nn.Sequential(*parts)
    else:
        raise RewriteError(f"{swap.path}: unknown replacement {swap.to!r}; the plan is from another version.")
    places.replace(old, new.to(reference.device, reference.dtype).train(old.training))


def _reference(model: nn.Module, path: str) -> torch.Tensor:
    """A float parameter of the module at `path` or of the nearest module around it: its device and dtype."""
    while True:
        for parameter in model.get_submodule(path).parameters():
            if parameter.dtype.is_floating_point:
                return parameter
        if not path:
            return torch.empty(0)
        path = path.rpartition(".")[0]


def _activation(swap: Swap, method: Method) -> nn.Module:
    site = ActivationSite(
        channels=swap.channels,
        dim=swap.dim,
        spatial=swap.spatial,
        spatial_between=swap.spatial_between,
        blinds=swap.blinds,
    )
    factory = method.activation(site)
    if factory is None:
        raise RewriteError(f"{swap.path}: {method.name} has no activation of its own; plan again.")
    return factory()
