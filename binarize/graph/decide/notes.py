"""The notes and warnings of a plan: what could not be kept, traced or reached, and what was done instead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import FunctionType
from typing import Any

from torch import nn

from binarize.errors import listed
from binarize.graph.decide.activation_sets import constant_activations
from binarize.graph.decide.added_norms import growth_notes
from binarize.graph.decide.costs import cost_notes
from binarize.graph.decide.draft import Draft
from binarize.graph.hooks import has_hooks, has_state_hooks
from binarize.graph.plan import AttentionPlan, OutputPlan
from binarize.graph.plan_sentences import Code, Statement, several
from binarize.layers.recipe import binary_attention
from binarize.methods.bypasses import composes, is_parallel


def notes_of(
    draft: Draft, outputs: Iterable[OutputPlan], attentions: Sequence[AttentionPlan], *, compiled: bool
) -> tuple[Statement, ...]:
    """All notes and warnings of a plan.

    Args:
        draft: with every decision made.
        outputs: of the plan.
        attentions: of the plan.
        compiled: the model was given compiled.
    """
    return (
        *_about_outputs(outputs),
        *_about_attention(draft, attentions),
        *constant_activations(draft),
        *_about_tracing(draft),
        *([Statement(Code.COMPILED)] if compiled else []),
        *_about_functions(draft),
        *_about_hooks(draft),
        *_about_ties(draft),
        *growth_notes(draft),
        *cost_notes(draft),
    )


def _about_outputs(outputs: Iterable[OutputPlan]) -> Iterator[Statement]:
    """Outputs that binary layers compute, or whose function changes."""
    converted: dict[tuple[str, ...], list[str]] = {}
    changed: dict[tuple[str, ...], list[str]] = {}
    for output in outputs:
        if binary := tuple(name for name in output.final if name not in output.kept):
            converted.setdefault(binary, []).append(output.name)
        if output.changed:
            changed.setdefault(output.changed, []).append(output.name)
    for layers, names in converted.items():
        yield Statement(Code.FINAL_BINARY, listed(layers), several("output", names))
    for functions, names in changed.items():
        yield Statement(Code.OUTPUT_CHANGED, listed(functions), several("output", names))


def _about_attention(draft: Draft, attentions: Sequence[AttentionPlan]) -> Iterator[Statement]:
    """A method that is asked for binary attention where none can be."""
    if binary_attention(draft.method) and not any(row.converted for row in attentions):
        reasons = dict.fromkeys(str(row.reason) for row in attentions)
        yield Statement(
            Code.NO_BINARY_ATTENTION, len(attentions), f" ({listed(reasons, 3)})" if reasons else ""
        )


def _about_tracing(draft: Draft) -> Iterator[Statement]:
    """Writes of forwards, branches that depend on data, forwards that cannot be rewritten, functions."""
    recording = draft.flow.recording
    root = type(draft.flow.model).__name__
    if written := sorted(recording.parameters & recording.written.keys()):
        writers = sorted({recording.written[name] or root for name in written})
        yield Statement(Code.WRITES, listed(writers, 3), listed(written, 3))
    if not recording.fake and not recording.sets_memory:
        yield Statement(Code.DATA_DEPENDENT)
    for path, reason in recording.opaque.items():
        yield Statement(Code.PART_BY_PART, path or root, reason)
    functional = sum(
        node.op == "call_function"
        and draft.flow.role(node) in ("conv", "linear")
        and any(n.meta["constant"] for n in node.all_input_nodes)
        for node in draft.flow.nodes
    )
    if functional == 1:
        yield Statement(Code.FUNCTION_STAYS)
    elif functional:
        yield Statement(Code.FUNCTIONS_STAY, functional)


def _about_functions(draft: Draft) -> Iterator[Statement]:
    """Functions that modules keep are not copied, so what they hold belongs to the given model."""
    modules = draft.flow.modules
    ours = {id(module) for module in modules.values()}
    names: list[str] = []
    for path, module in modules.items():
        for name, value in vars(module).items():
            if name in ("forward", "_modules", "_parameters", "_buffers", "_compiled_call_impl"):
                continue  # an instance's forward: its layers stay float
            if any(id(held) in ours for function in _functions(value) for held in _held(function)):
                where = path or type(module).__name__
                names.append(f"a hook of {where}" if name.endswith("_hooks") else f"{where}.{name}")
    if names:
        yield Statement(Code.HOLDS_MODULES, ", ".join(names))


def _functions(value: Any) -> Iterator[FunctionType]:
    """The functions in an attribute: itself, or those in its list."""
    several: Iterable[Any] = (
        value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else (value,)
    )
    return (each for each in several if isinstance(each, FunctionType))


def _held(function: FunctionType) -> Iterator[Any]:
    """Objects that a function refers to: in its closure and in the defaults of its arguments."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue
    yield from function.__defaults__ or ()


def _about_hooks(draft: Draft) -> Iterator[Statement]:
    modules = draft.flow.modules
    replaced = [*draft.sites, *draft.swaps]
    if moved := [path for path in replaced if has_hooks(modules[path])]:
        yield Statement(Code.HOOKS_MOVED, ", ".join(moved))
    if lost := [path for path in replaced if has_state_hooks(modules[path])]:
        yield Statement(Code.STATE_HOOKS_LOST, ", ".join(lost))
    gone = {(edit.owner, edit.node) for edit in draft.edits.values() if edit.action == "identity"}
    silent = {
        str(node.target): None
        for node in draft.flow.nodes
        if node.op == "call_module" and (node.meta["owner"], node.meta["step"]) in gone
    }
    if silent := [path for path in silent if has_hooks(modules[path])]:
        yield Statement(Code.HOOKS_SILENT, ", ".join(silent))


def _about_ties(draft: Draft) -> Iterator[Statement]:
    """Weights of several modules that stay one parameter only where all of them are built alike."""
    users: dict[int, list[tuple[str, nn.Module]]] = {}
    for path, module in draft.flow.modules.items():
        weight = module._parameters.get("weight")
        if weight is not None:
            users.setdefault(id(weight), []).append((path, module))
    for sharers in users.values():
        built = [_building(draft, path, module) for path, module in sharers]
        if len(set(built)) > 1 and any(kind != "whole" for kind in built):
            yield Statement(Code.TIE_CUT, ", ".join(path for path, _ in sharers))


def _building(draft: Draft, path: str, module: nn.Module) -> str:
    site = draft.sites.get(path)
    if site is None or not composes(draft.method, site.site()):
        return "whole"
    if not site.bypass and not is_parallel(draft.method):
        return "whole"
    return f"pieces of a {'transposed ' if site.site().transposed else ''}{type(module).__name__}"
