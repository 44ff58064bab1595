"""From a model to a plan: record, apply the policy, decide; nothing is changed."""

from __future__ import annotations

import dataclasses
import weakref
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from binarize.errors import ConfigError, with_article
from binarize.graph.decide.activation_sets import decide_sets
from binarize.graph.decide.activations import decide_activations, note_contexts
from binarize.graph.decide.added_norms import decide_growth
from binarize.graph.decide.attention import decide_attention
from binarize.graph.decide.costs import note_costs
from binarize.graph.decide.draft import Draft
from binarize.graph.decide.example_run import run_of
from binarize.graph.decide.float_layers import sort_layers
from binarize.graph.decide.norms import decide_norms, decide_scales
from binarize.graph.decide.notes import notes_of
from binarize.graph.decide.policy import Policy
from binarize.graph.decide.position import Position
from binarize.graph.decide.residuals import decide_residuals
from binarize.graph.decide.rows import layer_rows, output_rows
from binarize.graph.plan import Edit, Plan, Traced
from binarize.graph.plan_sentences import Code
from binarize.graph.trace.check_torch import check_tracing
from binarize.graph.trace.dataflow import Flow
from binarize.graph.trace.recording import Recording
from binarize.graph.trace.roles import module_role
from binarize.graph.unsupported import no_layers, refuse
from binarize.graph.wrappers import is_compiled, uncompiled
from binarize.layers.recipe import resolve
from binarize.methods.base import Method
from binarize.methods.bypasses import has_units


def plan(
    model: nn.Module,
    method: str | Method = "bidense",
    *,
    policy: Policy | None = None,
    example_inputs: Any = None,
    **options: Any,
) -> Plan:
    """Decide what happens to every layer of `model`; the model is left untouched.

    The model runs once, on tensors without data where that is possible; hooks on its modules run with it. For
    a model of torch.compile, the plan is for the model inside.

    Args:
        model: any network.
        method: name or method object.
        policy: which layers to keep; the default keeps stem, final layers and squeeze-excite gates.
        example_inputs: a tensor, a tuple of positional or a dict of keyword inputs; by default one image of
            the size in the model's own configuration, or of a size that the model runs on.
        **options: of the method, if it is given by name.

    Raises:
        ConfigError: unknown method or option, a policy of another type, a glob that matches nothing, no layer
            to convert, a model that is a single layer (see `binary_layer`), is wrapped for several devices,
            quantized or a TorchScript program.
        TraceError: the model does not run on the inputs, or the installed torch traces no module.
    """
    chosen = _resolved(method, options)
    wanted = _checked_policy(policy)
    compiled = isinstance(model, nn.Module) and is_compiled(model)
    model, layers = _checked_model(model)
    wanted.check(layers)
    recording = run_of(model, example_inputs)
    check_tracing(recording)
    flow = Flow(model, recording)
    draft = Draft(flow, Position(flow), chosen)
    sort_layers(draft, layers, wanted)
    if not draft.sites:
        raise ConfigError(_nothing_left(draft))
    _decide(draft)
    attentions = decide_attention(draft, wanted)
    outputs = tuple(output_rows(draft))
    return Plan(
        model=type(model).__name__,
        method=chosen.as_dict(),
        policy=wanted.as_dict(),
        rows=layer_rows(draft, layers),
        swaps=tuple(draft.swaps.values()),
        edits=tuple(_with_signature(edit, recording) for edit in draft.edits.values()),
        inputs=tuple(n.meta["shape"] for n in recording.graph.nodes if n.op == "placeholder"),
        outputs=outputs,
        attentions=attentions,
        notes=notes_of(draft, outputs, attentions, compiled=compiled),
        traced=Traced(
            weakref.ref(model),
            {owner: draft.rewritable[owner].graph for owner, _ in draft.edits},
            {site.name: site.form for site in draft.sites.values() if site.form is not None},
        ),
    )


def _decide(draft: Draft) -> None:
    """All decisions on converted layers and the steps around them, each based on those before it."""
    decide_norms(draft)
    note_contexts(draft)
    note_costs(draft)
    _note_bypasses(draft)
    decide_scales(draft)
    decide_residuals(draft)
    decide_activations(draft)
    decide_sets(draft)
    decide_growth(draft)


def _resolved(method: str | Method, options: dict[str, Any]) -> Method:
    """As `resolve`; if a field of the policy is given as an option, the error names `policy=`."""
    try:
        return resolve(method, options)
    except ConfigError as error:
        fields = [field.name for field in dataclasses.fields(Policy) if field.name in options]
        if not fields:
            raise
        given = ", ".join(f"{name}={options[name]!r}" for name in fields)
        raise ConfigError(f"{error} Layers are chosen by policy=binarize.Policy({given}).") from None


def _checked_policy(policy: Policy | None) -> Policy:
    wanted = Policy() if policy is None else policy
    if not isinstance(wanted, Policy):
        raise ConfigError(
            f"policy: got {with_article(type(wanted).__name__)}, expected binarize.Policy(keep=[...], ...)."
        )
    return wanted


def _checked_model(model: nn.Module) -> tuple[nn.Module, dict[str, nn.Module]]:
    """The model to plan for, without torch.compile around it, and its layers by path.

    Raises:
        ConfigError: see `plan`.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model: got {with_article(type(model).__name__)}, expected an nn.Module.")
    model = uncompiled(model)
    refuse(model)
    layers = {name: m for name, m in model.named_modules() if module_role(m) in ("conv", "linear")}
    if not layers:
        raise ConfigError(no_layers(model))
    if "" in layers:  # it could not be replaced inside itself
        raise ConfigError(
            f"{type(model).__name__} is a single layer, not a network: binarize.binary_layer(layer, method) "
            "makes its binary replacement."
        )
    for name, module in model.named_modules():
        if any(p is not None and is_lazy(p) for p in module._parameters.values()):
            raise ConfigError(f"{name} is lazy: run the model once before converting it.")
    return model, layers


def _note_bypasses(draft: Draft) -> None:
    for site in draft.sites.values():
        seen = site.site()
        site.bypass = has_units(draft.method, seen) or site.recipe(draft.method).bypass


def _with_signature(edit: Edit, recording: Recording) -> Edit:
    return dataclasses.replace(edit, **vars(recording.module_graphs[edit.owner].signature))


def _nothing_left(draft: Draft) -> str:
    """The message for a model of which every layer stays as it is."""
    name, count = type(draft.flow.model).__name__, len(draft.kept)
    reasons = [reason for _, reason in draft.kept.values()]
    text = f"none of the {count} layers of {name} can be converted ({', '.join(sorted(set(reasons)))}); "
    if binary := sum(reason.code is Code.BINARY_ALREADY for reason in reasons):
        return (
            f"{name} was converted before, {binary} of its layers are binary: {text}convert the float model."
        )
    return f"{text}see Policy(first=, last=, keep=, only=)."
