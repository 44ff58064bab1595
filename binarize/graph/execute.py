"""Executing a plan on a model, and `apply`: plan and execute on a copy."""

from __future__ import annotations

import copy as copying
import dataclasses
from typing import Any

import torch
from torch import fx, nn

from binarize.errors import RewriteError, TraceError
from binarize.graph.levels import acts, for_both_modes, trace_level
from binarize.graph.plan import Edit, Plan, Swap
from binarize.graph.planner import plan
from binarize.graph.policy import Policy
from binarize.graph.rewritten import install, require_default
from binarize.graph.roles import fused_activation, fused_drop, is_batch_norm
from binarize.layers.norm import batch_norm
from binarize.layers.recipe import METHODS
from binarize.methods.base import ActivationSite, Method
from binarize.methods.build import build, site_of

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def apply(
    model: nn.Module,
    method: str | Method = "bidense",
    *,
    policy: Policy | None = None,
    example_inputs: Any = None,
    **options: Any,
) -> nn.Module:
    """A binary copy of `model`; the given model is left untouched.

    The arguments are those of `plan`. The copy has the class, methods, training flags and state dict prefixes
    of the model, its float weights as latent weights, and the executed plan as attribute `binarize_plan`.

    Raises:
        ConfigError: unknown method or option, a glob that matches nothing, no layer to convert.
        TraceError: the model does not run on the inputs.
    """
    return execute(plan(model, method, policy=policy, example_inputs=example_inputs, **options), model)


def execute(plan: Plan, model: nn.Module, *, copy: bool = True) -> nn.Module:
    """Do what `plan` says.

    Args:
        plan: of this model or of one built alike.
        model: the float model.
        copy: work on a deep copy; False changes `model` itself.

    Raises:
        RewriteError: the model is not the one that was planned for.
    """
    method = METHODS.get(plan.method["name"]).create(**plan.method["options"])
    _check(plan, model)
    same = plan.traced is not None and plan.traced.model() is model
    graphs = plan.traced.graphs if same and plan.traced is not None else {}
    result = copying.deepcopy(model) if copy else model
    _edit(plan, result, method, graphs)
    places = _Places(result)
    _swap_layers(plan, result, method, places)
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


def _edit(plan: Plan, model: nn.Module, method: Method, graphs: dict[str, fx.Graph]) -> None:
    """Rewrite the forward of each module that owns a sum, an activation or a layer scale that goes."""
    by_owner: dict[str, list[Edit]] = {}
    for edit in plan.edits:
        by_owner.setdefault(edit.owner, []).append(edit)
    for owner, edits in by_owner.items():
        module = model.get_submodule(owner)
        try:
            if owner in graphs:
                graph = copying.deepcopy(graphs[owner])
            else:
                graph = for_both_modes(module, trace_level(module, edits[0].fixed)).graph
        except TraceError as error:
            raise RewriteError(f"{owner}: {error}; it could be traced when the plan was made.") from None
        before = _parameters_read(graph)
        nodes = {node.name: node for node in graph.nodes}
        for edit in edits:
            node = nodes.get(edit.node)
            if node is None:
                raise RewriteError(
                    f"{owner}: its forward has no step {edit.node!r}; plan again for this model."
                )
            _edit_node(graph, node, edit, module, method)
        _guard(graph, owner, edits[0].fixed)
        graph.eliminate_dead_code(
            is_impure_node=lambda n: (acts(n) and n.op != "call_module") or _raises(n)
        )
        for name in before - _parameters_read(graph):
            if "." not in name and name in module._parameters:
                module._parameters[name] = None  # layer scale that nothing reads any more
        install(module, graph)


def _guard(graph: fx.Graph, owner: str, fixed: tuple[str, ...]) -> None:
    """Refuse values for parameters of the forward that the graph holds at their defaults."""
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    if not placeholders:
        return
    with graph.inserting_after(placeholders[-1]):
        for node in placeholders:
            if node.target in fixed:
                graph.call_function(
                    require_default, (node, node.args[0], f"{owner or 'forward'}: {node.target}")
                )


def _edit_node(graph: fx.Graph, node: fx.Node, edit: Edit, module: nn.Module, method: Method) -> None:
    if edit.action == "activation" and edit.activation is not None:
        name = edit.activation.path
        reference = next(module.parameters(), torch.empty(0))
        module.add_module(name, _activation(edit.activation, method).to(reference.device, reference.dtype))
        with graph.inserting_before(node):
            value: Any = graph.call_module(name, (node.args[0],))
    else:
        value = node.args[edit.keep if edit.action == "drop" else 0]
    if not isinstance(value, fx.Node):
        raise RewriteError(f"{edit.owner}.{edit.node}: argument {edit.keep} is no tensor; plan again.")
    node.replace_all_uses_with(value)
    graph.erase_node(node)


def _raises(node: fx.Node) -> bool:
    return getattr(node.target, "__name__", "") in ("_assert", "_check", "require_default")


def _parameters_read(graph: fx.Graph) -> set[str]:
    return {str(node.target) for node in graph.nodes if node.op == "get_attr"}


def _swap_layers(plan: Plan, model: nn.Module, method: Method, places: _Places) -> None:
    for row in plan.converted:
        layer = model.get_submodule(row.name)
        site = site_of(layer, kind=row.site_kind or None, **dict(row.context))  # type: ignore[arg-type]
        built = build(layer, method, site, bypass=row.bypass != "none")
        if row.absorbs is not None:
            _take_over(built, model.get_submodule(row.absorbs), layer)
        places.replace(layer, built)


def _take_over(built: Any, norm: nn.Module, layer: Any) -> None:
    """Give `built` the norm that stood behind the float layer, with its statistics."""
    if isinstance(norm, nn.SyncBatchNorm) or built.norm is None:
        built.norm = _twin(norm)  # statistics that go over all processes, or a method without a norm of its own
    if is_batch_norm(norm):
        taken: Any = built.norm
        for name in ("weight", "bias"):
            taken._parameters[name] = norm._parameters.get(name)
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            taken._buffers[name] = norm._buffers.get(name)
        for name in ("eps", "momentum", "affine", "track_running_stats"):
            setattr(taken, name, getattr(norm, name))
        taken.train(norm.training)
        if layer.bias is not None and built.bias is None and taken.running_mean is not None:
            # BN(conv + bias) with mean m is BN(conv) with mean m - bias.
            taken.running_mean.sub_(layer.bias.detach().to(taken.running_mean.dtype))
    else:
        built.norm = _twin(norm)


def _twin(module: nn.Module) -> nn.Module:
    """Another object with the same tensors: the first will be replaced wherever it is registered."""
    twin = copying.copy(module)
    twin._parameters = dict(module._parameters)
    twin._buffers = dict(module._buffers)
    return twin


def _swap(model: nn.Module, swap: Swap, method: Method, places: _Places) -> None:
    old = model.get_submodule(swap.path)
    reference = _reference(model, swap.path)
    if swap.to == "identity":
        new: nn.Module = nn.Identity()
    elif swap.to == "batch_norm":
        new = batch_norm(swap.channels, dim=swap.dim, spatial=swap.spatial)
    elif swap.to == "activation":
        new = _activation(swap, method)
    elif swap.to in ("inner_act", "no_inner_act"):
        inner: nn.Module = nn.Identity() if swap.to == "no_inner_act" else _activation(swap, method)
        old.act = inner.to(reference.device, reference.dtype).train(old.training)
        return
    elif swap.to in ("unfuse", "drop_act"):
        own, drop = fused_activation(old), fused_drop(old)
        act = own if swap.own else (None if swap.to == "drop_act" else _activation(swap, method))
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


class _Places:
    """Where each module is registered; found once, so that many replacements take no more walks."""

    def __init__(self, model: nn.Module) -> None:
        self._places: dict[nn.Module, list[tuple[nn.Module, str]]] = {}
        for parent in model.modules():
            for name, child in parent._modules.items():
                if child is not None:
                    self._places.setdefault(child, []).append((parent, name))

    def replace(self, old: nn.Module, new: nn.Module) -> None:
        """Put `new` wherever `old` is registered, under all of its names."""
        places = self._places.pop(old, [])
        for parent, name in places:
            parent._modules[name] = new
        self._places.setdefault(new, []).extend(places)
        for name in _HOOKS:  # feature extractors and users hang theirs on what is replaced
            if getattr(old, name, None):
                getattr(new, name).update(getattr(old, name))
