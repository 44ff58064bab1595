"""From a model to a plan: record, apply the policy, decide; nothing is changed."""

from __future__ import annotations

import dataclasses
import weakref
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from binarize.errors import ConfigError, TraceError
from binarize.functional.bypass import bypass_kind
from binarize.graph.decide.activation_sets import blind_layers, decide_sets
from binarize.graph.decide.activations import decide_activations, note_contexts
from binarize.graph.decide.draft import Draft, SiteDraft
from binarize.graph.decide.growth import decide_growth, growth_notes
from binarize.graph.decide.norms import decide_norms, decide_scales
from binarize.graph.decide.notes import remarks
from binarize.graph.decide.output_rows import output_rows
from binarize.graph.decide.policy import Policy, named_reason, place_reason
from binarize.graph.decide.position import Position
from binarize.graph.decide.residuals import decide_residuals
from binarize.graph.output_plan import output_warnings
from binarize.graph.plan import Edit, KeptBy, LayerPlan, Plan, Traced
from binarize.graph.trace.check_torch import check_tracing
from binarize.graph.trace.dataflow import Flow
from binarize.graph.trace.own_forward import Opening
from binarize.graph.trace.recorder import Recording, record
from binarize.graph.trace.roles import module_role
from binarize.graph.unsupported import no_layers, refuse
from binarize.graph.wrappers import is_compiled, uncompiled
from binarize.layers.recipe import Kind, resolve
from binarize.methods.base import Method
from binarize.methods.build import BINARY_ALREADY, why_not

_COMPILED = "the model is compiled: its binary copy has to be compiled anew"
_GUESSES = (224, 256, 64, 32, 384, 512)


def plan(
    model: nn.Module,
    method: str | Method = "bidense",
    *,
    policy: Policy | None = None,
    example_inputs: Any = None,
    **options: Any,
) -> Plan:
    """Decide what becomes of every layer of `model`; the model is left untouched.

    The model runs once, on tensors without data where that is possible; hooks on its modules run with it. Of
    a model by torch.compile, the model inside is planned for.

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
    chosen = resolve(method, options)
    wanted = Policy() if policy is None else policy
    if not isinstance(wanted, Policy):
        raise ConfigError(
            f"policy: got a {type(wanted).__name__}, expected binarize.Policy(keep=[...], ...)."
        )
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model: got a {type(model).__name__}, expected an nn.Module.")
    compiled = is_compiled(model)
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
    wanted.check(layers)
    for name, module in model.named_modules():
        if any(p is not None and is_lazy(p) for p in module._parameters.values()):
            raise ConfigError(f"{name} is lazy: run the model once before converting it.")
    recording = _record(model, example_inputs)
    check_tracing(recording)
    flow = Flow(model, recording)
    draft = Draft(flow, Position(flow), chosen)
    _sort_layers(draft, layers, wanted)
    if not draft.sites:
        raise ConfigError(_nothing_left(draft))
    decide_norms(draft)
    note_contexts(draft)
    _note_bypasses(draft)
    decide_scales(draft)
    decide_residuals(draft)
    decide_activations(draft)
    decide_sets(draft)
    decide_growth(draft)
    rows = _rows(draft, layers)
    outputs = tuple(output_rows(draft))
    return Plan(
        model=type(model).__name__,
        method=chosen.as_dict(),
        policy=wanted.as_dict(),
        rows=rows,
        swaps=tuple(draft.swaps.values()),
        edits=tuple(_with_signature(edit, recording) for edit in draft.edits.values()),
        inputs=tuple(n.meta["shape"] for n in recording.graph.nodes if n.op == "placeholder"),
        outputs=outputs,
        notes=(
            *output_warnings(outputs),
            *blind_layers(draft),
            *_notes(draft),
            *([_COMPILED] if compiled else []),
            *remarks(draft),
            *growth_notes(draft),
        ),
        traced=Traced(
            weakref.ref(model),
            {owner: draft.rewritable[owner].graph for owner, _ in draft.edits},
            {site.name: site.form for site in draft.sites.values() if site.form is not None},
        ),
    )


def example_size(model: nn.Module) -> tuple[int, ...] | None:
    """(C, H, W) of the images that a model's own configuration names, or None."""
    for holder in (model, *(m for m in model.children())):
        config = getattr(holder, "pretrained_cfg", None) or getattr(holder, "default_cfg", None)
        size = config.get("input_size") if isinstance(config, dict) else None
        if size is not None and len(size) == 3:
            first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
            channels = first.in_channels if first is not None and first.groups == 1 else int(size[0])
            return (
                channels if channels <= 4 or channels == size[0] else int(size[0]),
                int(size[1]),
                int(size[2]),
            )
    return None


def _record(model: nn.Module, example_inputs: Any) -> Recording:
    if example_inputs is not None:
        if isinstance(example_inputs, dict):
            return record(model, (), example_inputs)
        args = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
        return record(model, args)
    failure = ""
    for shape in _example_shapes(model):
        parameter = next(model.parameters())
        dtype = parameter.dtype if parameter.dtype.is_floating_point else torch.float32
        try:
            return record(model, (_blank(shape, dtype, parameter.device),))
        except TraceError as error:
            failure = str(error)
    raise TraceError(
        f"{type(model).__name__} ran on none of the example inputs that were tried (last {failure}); "
        "give example_inputs=, a tensor or a tuple of what its forward takes."
    )


def _blank(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if device.type == "meta":
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.randn(shape, generator=generator).to(device, dtype)


def _example_shapes(model: nn.Module) -> list[tuple[int, ...]]:
    known = example_size(model)
    if known is not None:
        return [(1, *known)]
    first = next((m for m in model.modules() if module_role(m) in ("conv", "linear")), None)
    if isinstance(first, nn.Linear):
        return [(2, first.in_features), (2, 16, first.in_features), (1, 3, 224, 224)]
    if isinstance(first, nn.Conv1d):
        return [(1, first.in_channels, n) for n in (1024, 256, 64)]
    if isinstance(first, nn.Conv3d):
        return [(1, first.in_channels, n, n, n) for n in (32, 64)]
    channels = getattr(first, "in_channels", 3)
    return [(1, channels, n, n) for n in _GUESSES]


def _sort_layers(draft: Draft, layers: dict[str, nn.Module], policy: Policy) -> None:
    method: Method = draft.method
    for name, module in layers.items():
        nodes = draft.flow.calls.get(name, [])
        reason = named_reason(name, policy)
        if reason is not None:
            draft.kept[name] = ("policy", reason)
        elif not nodes:
            draft.kept[name] = _uncalled(draft, name)
        elif (reason := _rewritten(draft, name)) is not None:
            draft.kept[name] = ("layer", reason)
        elif name in draft.position.fixed:
            draft.kept[name] = ("layer", "frozen: its weight is a constant")
        elif (reason := place_reason(nodes, module, policy, draft.flow, draft.position)) is not None:
            draft.kept[name] = ("policy", reason)
        elif (reason := _layer_reason(draft, name)) is not None:
            draft.kept[name] = ("layer", reason)
        else:
            opening = draft.flow.recording.opened.get(name)
            form = opening.form if isinstance(opening, Opening) else draft.flow.recording.own.get(name)
            site = SiteDraft(name, module, nodes, _kind(module, nodes[0]), form)  # type: ignore[arg-type]
            if (reason := method.refuses(site.site())) is not None:
                draft.kept[name] = ("method", reason)
            elif (reason := _unanswered(draft, site)) is not None:
                draft.kept[name] = ("layer", reason)
            elif isinstance(opening, Opening) and (reason := draft.open(name, opening)) is not None:
                draft.kept[name] = ("layer", _closed(module, reason))
            else:
                draft.sites[name] = site


def _layer_reason(draft: Draft, name: str) -> str | None:
    """Why there is no binary replacement for the layer, or for how it is called."""
    module, recording = draft.flow.modules[name], draft.flow.recording
    opening, form = recording.opened.get(name), recording.own.get(name)
    if isinstance(opening, str):
        return _closed(module, opening)
    reason = why_not(module, opening.form if opening is not None else form)  # type: ignore[arg-type]
    return reason or _inside_patched(draft, name)


def _unanswered(draft: Draft, site: SiteDraft) -> str | None:
    """What a forward asks of the layer, or calls it with, that the binary one could not answer."""
    known = ("input", "output_size") if isinstance(site.module, nn.ConvTranspose2d) else ("input",)
    for node in site.nodes:
        if len(node.args) > len(known) or not set(node.kwargs) <= set(known):
            return f"is called with more than {' and '.join(known)}"
    recording = draft.flow.recording
    if site.name not in recording.opened:  # or else its own forward adds the bias, and keeps it
        for own in ("weight", "bias"):
            if f"{site.name}.{own}" in recording.computed:
                return f"a forward computes with its {own}, of which bits or nothing would be left"
    return None


def _closed(module: nn.Module, reason: str) -> str:
    return f"{type(module).__name__} has a forward of its own that cannot be taken apart: {reason}"


def _nothing_left(draft: Draft) -> str:
    """The message for a model of which every layer stays as it is."""
    name, count = type(draft.flow.model).__name__, len(draft.kept)
    reasons = [reason for _, reason in draft.kept.values()]
    text = f"none of the {count} layers of {name} can be converted ({', '.join(sorted(set(reasons)))}); "
    if BINARY_ALREADY in reasons:
        binary = reasons.count(BINARY_ALREADY)
        return (
            f"{name} was converted before, {binary} of its layers are binary: {text}convert the float model."
        )
    return f"{text}see Policy(first=, last=, keep=, only=)."


def _inside_patched(draft: Draft, name: str) -> str | None:
    """Why a layer cannot be replaced where a module around it has a forward of its instance's own.

    Such a function holds on to the modules that it was made for, of which the result has copies. A method of
    the module's own is copied with it.
    """
    parts = name.split(".")
    for end in range(len(parts)):
        path = ".".join(parts[:end])
        around = draft.flow.modules[path]
        forward = around.__dict__.get("forward")
        if (
            forward is not None
            and getattr(forward, "__self__", None) is not around
            and not is_compiled(around)
        ):
            return f"the forward of {path or 'the model'} was replaced on the instance: undo that first"
    return None


def _rewritten(draft: Draft, name: str) -> str | None:
    """Why a layer stays float whose weights are written, or read to write others, by forwards of the model.

    What they computed with float weights they would compute with latent ones, or do to them.
    """
    recording = draft.flow.recording
    root = type(draft.flow.model).__name__
    for tensor in _own_tensors(draft, name):
        if tensor in recording.written:
            writer = recording.written[tensor] or root
            return f"its {tensor.rpartition('.')[2]} is written by the forward of {writer}"
        if recording.writes_parameters and tensor in recording.read:
            return f"its {tensor.rpartition('.')[2]} is read in a forward that writes parameters"
    return None


def _own_tensors(draft: Draft, name: str) -> list[str]:
    module = draft.flow.modules[name]
    return [f"{name}.{own}" for own in (*module._parameters, *module._buffers)]


def _uncalled(draft: Draft, name: str) -> tuple[KeptBy, str]:
    """Why a layer that was not called stays float."""
    if f"{name}.weight" in draft.flow.recording.read:
        return "layer", "its weight is used by a function, the layer is not called"
    return "unused", "not called on the example input"


def _kind(module: nn.Module, node: fx.Node) -> Kind:
    if not isinstance(module, nn.Linear):
        return "conv"
    return "pointwise" if len(node.meta["input_shape"]) >= 4 else "token"


def _note_bypasses(draft: Draft) -> None:
    for site in draft.sites.values():
        seen = site.site()
        site.bypass = draft.method.composes(seen) or site.recipe(draft.method).bypass


def _rows(draft: Draft, layers: dict[str, nn.Module]) -> tuple[LayerPlan, ...]:
    order = {name: draft.flow.order[nodes[0]] for name, nodes in draft.flow.calls.items()}
    names = sorted(layers, key=lambda name: order.get(name, len(draft.flow.nodes)))
    return tuple(_row(draft, name, layers[name]) for name in names)


def _row(draft: Draft, name: str, module: nn.Module) -> LayerPlan:
    nodes = draft.flow.calls.get(name, [])
    weight = getattr(module, "weight", None)
    row = LayerPlan(
        name=name,
        kind=_kind_name(module),
        in_shape=nodes[0].meta["input_shape"] if nodes else (),
        out_shape=draft.flow.shape(nodes[0]) if nodes else (),
        weight_shape=tuple(weight.shape) if isinstance(weight, Tensor) else (),
    )
    site = draft.sites.get(name)
    if site is None:
        kept_by, reason = draft.kept[name]
        return dataclasses.replace(row, reason=reason, kept_by=kept_by, norm=draft.kept_norms.get(name, ""))
    return dataclasses.replace(
        row,
        converted=True,
        reason="shared: one layer, called several times" if len(nodes) > 1 else "",
        bypass=_bypass_name(draft, site),
        bypass_reason=site.bypass_reason,
        norm=site.norm,
        activation=site.activation,
        residual=site.residual,
        site_kind=site.kind,
        context=tuple(site.context.items()),
        absorbs=site.absorbs,
        nonnegative=site.nonnegative,
        activations=site.values,
    )


def _bypass_name(draft: Draft, site: SiteDraft) -> str:
    seen = site.site()
    if not site.bypass:
        return "none"
    if draft.method.composes(seen):
        return "units"
    kind = bypass_kind(seen.in_channels, seen.out_channels)
    if kind == "identity":
        return "pool" if any(s > 1 for s in seen.stride) and not seen.transposed else "identity"
    return f"CFB {kind}"


def _kind_name(module: nn.Module) -> str:
    if isinstance(module, nn.Linear):
        return "linear"
    conv: Any = module
    names = {"Conv1d": "conv1d", "Conv2d": "conv2d", "Conv3d": "conv3d"}
    base = next((text for cls, text in names.items() if isinstance(module, getattr(nn, cls))), "")
    base = base or f"conv_transpose{len(conv.kernel_size)}d"
    if conv.groups > 1:
        base = f"dw {base}" if conv.groups == conv.in_channels else f"grouped {base}"
    return base


def _with_signature(edit: Edit, recording: Recording) -> Edit:
    return dataclasses.replace(edit, **vars(recording.levels[edit.owner].signature))


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _notes(draft: Draft) -> list[str]:
    recording = draft.flow.recording
    notes = []
    if written := sorted(recording.parameters & recording.written.keys()):
        writers = sorted({recording.written[name] or type(draft.flow.model).__name__ for name in written})
        notes.append(
            f"the forward of {_some(writers)} writes to {_some(written)}: what it writes to stays as it is"
        )
    if not recording.fake and not recording.sets_memory:
        notes.append("control flow depends on data: the plan holds for the way that the example input took")
    for path, reason in recording.opaque.items():
        notes.append(f"{path or draft.flow.model.__class__.__name__}: converted part by part ({reason})")
    functional = sum(
        node.op == "call_function"
        and draft.flow.role(node) in ("conv", "linear")
        and any(n.meta["constant"] for n in node.all_input_nodes)
        for node in draft.flow.nodes
    )
    if functional:
        notes.append(f"{functional} convolutions or linear maps are called as functions and stay float")
    return notes
