"""Which layers stay float, and why: by the policy, by the method, or because of how they are used."""

from __future__ import annotations

from torch import fx, nn

from binarize.graph.decide.draft import Draft, SiteDraft
from binarize.graph.decide.policy import Policy, named_reason, place_reason
from binarize.graph.plan import KeptBy
from binarize.graph.plan_sentences import Code, Statement
from binarize.graph.trace.layer_step import LayerStep
from binarize.graph.wrappers import is_compiled
from binarize.layers import BinaryLayer
from binarize.layers.recipe import Kind
from binarize.methods.base import Method
from binarize.methods.float_layer import why_not


def sort_layers(draft: Draft, layers: dict[str, nn.Module], policy: Policy) -> None:
    """Enter each layer in `draft.sites`, to be converted, or in `draft.kept`, with the reason."""
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
            draft.kept[name] = ("layer", Statement(Code.CONSTANT_WEIGHT))
        elif (reason := place_reason(nodes, module, policy, draft.flow, draft.position)) is not None:
            draft.kept[name] = ("policy", reason)
        elif (reason := _layer_reason(draft, name)) is not None:
            draft.kept[name] = ("layer", reason)
        else:
            layer_step = draft.flow.recording.layer_steps.get(name)
            form = (
                layer_step.form if isinstance(layer_step, LayerStep) else draft.flow.recording.own.get(name)
            )
            site = SiteDraft(name, module, nodes, _kind(module, nodes[0]), form)  # type: ignore[arg-type]
            if (reason := method.refuses(site.site())) is not None:
                draft.kept[name] = ("method", Statement(Code.OTHER, reason))
            elif (reason := _unanswered(draft, site)) is not None:
                draft.kept[name] = ("layer", reason)
            elif (
                isinstance(layer_step, LayerStep)
                and (reason := draft.put_in_forward(name, layer_step)) is not None
            ):
                draft.kept[name] = ("layer", _closed(module, reason))
            else:
                draft.sites[name] = site


def _layer_reason(draft: Draft, name: str) -> Statement | None:
    """Why there is no binary replacement for the layer, or for how it is called."""
    module, recording = draft.flow.modules[name], draft.flow.recording
    layer_step, form = recording.layer_steps.get(name), recording.own.get(name)
    if isinstance(layer_step, str):
        return _closed(module, layer_step)
    if isinstance(module, BinaryLayer):
        return Statement(Code.BINARY_ALREADY)
    reason = why_not(module, layer_step.form if layer_step is not None else form)  # type: ignore[arg-type]
    return Statement(Code.OTHER, reason) if reason else _inside_patched(draft, name)


def _unanswered(draft: Draft, site: SiteDraft) -> Statement | None:
    """Why a forward uses the layer (by arguments or its tensors) as a binary one cannot be used, or None."""
    known = ("input", "output_size") if isinstance(site.module, nn.ConvTranspose2d) else ("input",)
    for node in site.nodes:
        if len(node.args) > len(known) or not set(node.kwargs) <= set(known):
            return Statement(Code.MORE_ARGUMENTS, " and ".join(known))
    recording = draft.flow.recording
    if site.name not in recording.layer_steps:  # otherwise its own forward adds the bias, and keeps it
        for own in ("weight", "bias"):
            if f"{site.name}.{own}" in recording.computed:
                return Statement(Code.COMPUTED_WITH, own)
    return None


def _closed(module: nn.Module, reason: str) -> Statement:
    return Statement(Code.OWN_FORWARD, type(module).__name__, reason)


def _inside_patched(draft: Draft, name: str) -> Statement | None:
    """Why a layer cannot be replaced if the forward of a module around it was replaced on the instance.

    That function refers to the modules that it was made for, but the result has copies of them. A method
    bound to the module itself is copied with it.
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
            return Statement(Code.PATCHED, path or "the model")
    return None


def _rewritten(draft: Draft, name: str) -> Statement | None:
    """Why a layer stays float whose weights are written, or read to write others, by forwards of the model.

    They would then compute with latent weights instead of float ones, or write to them.
    """
    recording = draft.flow.recording
    root = type(draft.flow.model).__name__
    for tensor in _own_tensors(draft, name):
        if tensor in recording.written:
            writer = recording.written[tensor] or root
            return Statement(Code.WEIGHT_WRITTEN, tensor.rpartition(".")[2], writer)
        if recording.writes_parameters and tensor in recording.read:
            return Statement(Code.WEIGHT_READ, tensor.rpartition(".")[2])
    return None


def _own_tensors(draft: Draft, name: str) -> list[str]:
    module = draft.flow.modules[name]
    return [f"{name}.{own}" for own in (*module._parameters, *module._buffers)]


def _uncalled(draft: Draft, name: str) -> tuple[KeptBy, Statement]:
    """Why a layer that was not called stays float."""
    if f"{name}.weight" in draft.flow.recording.read:
        return "layer", Statement(Code.WEIGHT_USED)
    return "unused", Statement(Code.NOT_CALLED)


def _kind(module: nn.Module, node: fx.Node) -> Kind:
    if not isinstance(module, nn.Linear):
        return "conv"
    return "pointwise" if len(node.meta["input_shape"]) >= 4 else "token"
