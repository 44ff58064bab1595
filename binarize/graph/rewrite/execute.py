"""Executing a plan on a model, and `apply`: plan and execute on a copy."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from binarize.errors import RewriteError
from binarize.graph.decide.planner import plan
from binarize.graph.decide.policy import Policy
from binarize.graph.model_copy import copied, weight_shape
from binarize.graph.plan import Plan
from binarize.graph.rewrite.forward_edits import edit_forwards
from binarize.graph.rewrite.layer_swaps import swap_layers
from binarize.graph.rewrite.module_slots import Places
from binarize.graph.rewrite.module_swaps import swap_module
from binarize.graph.wrappers import uncompiled
from binarize.layers.recipe import METHODS
from binarize.methods.base import Method
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

    The copy has the class, methods, training flags and names of the state dict of the model, its float
    weights as latent weights, and the executed plan as attribute `binarize_plan`. Parameters that modules
    share stay shared and frozen ones stay frozen; what the method adds (quantizers, norms, activations) is
    trainable. Hooks move to the replacement of their module. The copy of a compiled model is not compiled.

    Args:
        model: any float network; what `plan` refuses is refused here too.
        method: name of a method, or a method object.
        policy: which layers stay float; None for the default one.
        example_inputs: a tensor, or a tuple or dict of arguments, that the model can be run on; None for an
            image of the model's own size.
        generator: of the start values that the method draws; None for torch's.
        **options: of the method, if it is given by name.

    Returns:
        The binary network, in the model's mode of training or evaluation.

    Raises:
        ConfigError: as `plan` and `execute`.
        TraceError: the model does not run on the inputs.
    """
    made = plan(model, method, policy=policy, example_inputs=example_inputs, **options)
    return execute(made, model, generator=generator)


def execute(
    plan: Plan, model: nn.Module, *, copy: bool = True, generator: torch.Generator | None = None
) -> nn.Module:
    """Carry out `plan`; the global random state is left alone.

    Args:
        plan: of this model or of one built alike.
        model: the float model.
        copy: work on a deep copy; False changes `model` itself.
        generator: of the CPU, for the start values that a method draws (bidense's a and k); by default they
            are the same in every call. `torch.default_generator` draws them from torch's global state.

    Raises:
        RewriteError: the model is not the one that was planned for.
        ConfigError: it cannot be copied, or the generator is not on the CPU.
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
    taken_out = edit_forwards(plan, result, method, graphs, forms)
    places = Places(result)
    swap_layers(plan, result, method, places, taken_out, forms)
    for swap in plan.swaps:
        swap_module(result, swap, method, places)
    _disable_fast_paths(result)
    result.binarize_plan = dataclasses.replace(plan, traced=None)  # type: ignore[assignment]
    return result


def _disable_fast_paths(model: nn.Module) -> None:
    """Keep torch's transformer layers from reading the float weights of converted children directly."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0  # what its forward checks before it takes the fused path
        elif isinstance(module, nn.TransformerEncoder):
            module.enable_nested_tensor = module.use_nested_tensor = False


def _check(plan: Plan, model: nn.Module) -> None:
    modules = dict(model.named_modules())
    for row in plan.rows:
        module = modules.get(row.name)
        shape = None if module is None else weight_shape(module)
        if row.weight_shape and shape != row.weight_shape:
            raise RewriteError(
                f"{row.name}: the plan was made for a weight of {row.weight_shape}, "
                f"{type(model).__name__} has {shape or 'no such layer'}; plan again for this model."
            )
