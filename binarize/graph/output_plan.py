"""What a plan says of the network's outputs: their last layers, and where those are not kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_NAMES = 4  # names in a line


@dataclass(frozen=True, kw_only=True)
class OutputPlan:
    """The last layers of one output.

    Attributes:
        name: its path in the network's result, such as `logits` or `aux.0`; `output` for a tensor alone;
            `head (dropped)` for what the example run computes by layer `head` and does not return.
        shape: of the example run.
        features: it is for another network to go on with: none of its layers is a last one.
        final: paths of its last layers; of weights that a function is called with, their names.
        kept: those of them that stay float.
        functions: what the network does to their results that sets their range, in the order of the run.
        changed: those functions of features that the method replaces.
    """

    name: str
    shape: tuple[int, ...] = ()
    features: bool = False
    final: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


def output_lines(outputs: Iterable[OutputPlan]) -> Iterator[str]:
    """The outputs with their last layers; outputs of the same layers are one line."""
    groups: dict[tuple[object, ...], list[OutputPlan]] = {}
    for output in outputs:
        groups.setdefault((output.features, output.final, output.kept, output.functions), []).append(output)
    for group in groups.values():
        first = group[0]
        line = f"{_several('output', [output.name for output in group])}: "
        if first.features:
            line += "features, all of their layers may become binary"
        elif first.final:
            names = [name if name in first.kept else f"{name} (binary)" for name in first.final]
            line += _several("last layer", names)
        else:
            line += "no layer"
        yield line + (f", then {_listed(first.functions)}" if first.functions and not first.features else "")


def output_warnings(outputs: Iterable[OutputPlan]) -> Iterator[str]:
    """Outputs that binary layers compute, or whose function changes."""
    converted: dict[tuple[str, ...], list[str]] = {}
    changed: dict[tuple[str, ...], list[str]] = {}
    for output in outputs:
        if binary := tuple(name for name in output.final if name not in output.kept):
            converted.setdefault(binary, []).append(output.name)
        if output.changed:
            changed.setdefault(output.changed, []).append(output.name)
    for layers, names in converted.items():
        yield (
            f"warning: {_listed(layers)} becomes binary, although {_several('output', names)} is its result: "
            "its values and their range change; Policy(last=1) or keep= leaves it float"
        )
    for functions, names in changed.items():
        yield (
            f"warning: {_listed(functions)} in front of {_several('output', names)} is replaced by the "
            "method's activation: the range of these features changes"
        )


def _several(what: str, names: list[str]) -> str:
    return f"{what}{'s' if len(names) > 1 else ''} {_listed(names)}" if names != [what] else what


def _listed(names: Iterable[str]) -> str:
    listed = list(names)
    more = len(listed) - _NAMES
    return ", ".join(listed[:_NAMES]) + (f" and {more} more" if more > 0 else "")
