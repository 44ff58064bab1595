"""What a plan says about tensors and hooks that its execution does not keep as they were."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import FunctionType
from typing import Any

from torch import nn

from binarize.graph.decide.draft import Draft
from binarize.graph.hooks import has_hooks, has_state_hooks


def remarks(draft: Draft) -> list[str]:
    """Notes for people: functions that copies share, hooks of what is replaced, ties taken apart."""
    return [*_about_functions(draft), *_about_hooks(draft), *_about_ties(draft)]


def _about_functions(draft: Draft) -> Iterator[str]:
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
        yield (
            f"warning: {', '.join(names)}: holds modules of the given model, and functions are not copied: "
            "what it calls there stays float and trains the given model. Make it a method of its module, or "
            "let it find the modules when it is called"
        )


def _functions(value: Any) -> Iterator[FunctionType]:
    """The functions that an attribute is, or that it lists."""
    several: Iterable[Any] = (
        value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else (value,)
    )
    return (each for each in several if isinstance(each, FunctionType))


def _held(function: FunctionType) -> Iterator[Any]:
    """What a function has from around it: of its closure, and the defaults of its arguments."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue
    yield from function.__defaults__ or ()


def _about_hooks(draft: Draft) -> Iterator[str]:
    modules = draft.flow.modules
    replaced = [*draft.sites, *draft.swaps]
    if moved := [path for path in replaced if has_hooks(modules[path])]:
        yield f"hooks of {', '.join(moved)}: see what stands there now, a binary layer with norm and bypass"
    if lost := [path for path in replaced if has_state_hooks(modules[path])]:
        yield f"state dict hooks of {', '.join(lost)}: go with the module that they know"
    gone = {(edit.owner, edit.node) for edit in draft.edits.values() if edit.action == "identity"}
    silent = {
        str(node.target): None
        for node in draft.flow.nodes
        if node.op == "call_module" and (node.meta["owner"], node.meta["level"]) in gone
    }
    if silent := [path for path in silent if has_hooks(modules[path])]:
        yield f"hooks of {', '.join(silent)}: do not run where its calls moved into a unit"


def _about_ties(draft: Draft) -> Iterator[str]:
    """Weights of several modules that stay one parameter only where all of them are built alike."""
    users: dict[int, list[tuple[str, nn.Module]]] = {}
    for path, module in draft.flow.modules.items():
        weight = module._parameters.get("weight")
        if weight is not None:
            users.setdefault(id(weight), []).append((path, module))
    for sharers in users.values():
        built = [_building(draft, path, module) for path, module in sharers]
        if len(set(built)) > 1 and any(kind != "whole" for kind in built):
            names = ", ".join(path for path, _ in sharers)
            yield f"{names}: shared one weight, now in pieces that are each one's own"


def _building(draft: Draft, path: str, module: nn.Module) -> str:
    site = draft.sites.get(path)
    if site is None or not site.bypass or not draft.method.composes(site.site()):
        return "whole"
    return f"pieces of a {'transposed ' if site.site().transposed else ''}{type(module).__name__}"
