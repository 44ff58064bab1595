"""What a plan says about tensors and hooks that its execution does not keep as they were."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from binarize.graph.draft import Draft
from binarize.graph.hooks import has_hooks, has_state_hooks


def remarks(draft: Draft) -> list[str]:
    """Notes for people: hooks of what is replaced, and ties that a method takes apart."""
    return [*_about_hooks(draft), *_about_ties(draft)]


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
