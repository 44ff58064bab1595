"""Picture and words of `binarize.inspect.sensitivity`."""

from __future__ import annotations

from typing import Any

import numpy as np

from binarize.inspect import style
from binarize.inspect.layer_sensitivity import KeepList, Sensitivity
from binarize.inspect.section import Section
from binarize.training.figures import ALL


def sensitivity_section(
    label: str,
    found: Sensitivity,
    figure: str,
    keep: KeepList | None = None,
    measured: tuple[float, float] | None = None,
    name: str = "sensitivity",
) -> Section:
    """What the groups of layers of one network are worth.

    Args:
        label: of the network.
        found: their gains.
        figure: name of the main figure (`miou`).
        keep: the suggested groups, if there is a budget.
        measured: the figure with every group binary, and with those of `keep` float.
        name: of the section's files.
    """
    helps = measured is None or (measured[1] > measured[0] if found.higher else measured[1] < measured[0])
    chosen = set(keep.groups) if keep is not None and helps else set()
    word = next((task.title for task in ALL.values() if task.main == figure), figure)
    return Section(
        name=name,
        analysis="sensitivity",
        title=f"What {word} gains from layers that stay float: {label}",
        figure=_figure(label, found, word, chosen),
        findings=(*_findings(label, found, word), *_suggestion(label, keep, word, measured, helps)),
        rows=[
            {
                "network": label,
                "group": group,
                figure: found.changed[i],
                "gain": found.gain[i],
                "bytes": found.bytes[i],
                "ops": found.ops[i],
                "keep": group in chosen,
            }
            for i, group in enumerate(found.groups)
        ],
        data={
            label: {
                "figure": figure,
                "from_float": found.from_float,
                "base": found.base,
                "groups": found.groups,
                "layers": found.layers,
                "changed": found.changed,
                "gain": found.gain,
                "bytes": found.bytes,
                "ops": found.ops,
                "keep": None if keep is None else {**vars(keep), "measured": measured, "helps": helps},
            }
        },
    )


def _figure(label: str, found: Sensitivity, figure: str, chosen: set[str]) -> Any:
    count = len(found.groups)
    drawn = style.figure(9.0, 1.3 + 0.19 * max(4, count))
    axes = drawn.subplots()
    for kept, colour, text in (
        (False, style.COLOURS[5], "group of layers"),
        (True, style.COLOURS[1], "in the keep list"),
    ):
        rows = [i for i, group in enumerate(found.groups) if (group in chosen) == kept]
        if rows:
            axes.barh(
                rows,
                found.gain[rows],
                color=colour,
                label=text,
                hatch="///" if kept else None,
                edgecolor="white",
            )
    axes.axvline(0, color="0.3", linewidth=1)
    axes.set_yticks(range(count), found.groups, fontsize=7)
    axes.set_ylim(count - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    word = "higher" if found.higher else "lower"
    axes.set_xlabel(
        f"gain: how much {word} {figure} is with the group float (network: {found.base:.4f})",
        fontsize=9,
    )
    way = "one group at a time made binary" if found.from_float else "one group at a time kept float"
    axes.set_title(f"{label}: {way}", fontsize=10)
    if chosen:
        axes.legend(fontsize=8)
    return drawn


def _findings(label: str, found: Sensitivity, figure: str) -> list[str]:
    order = [i for i in np.argsort(-found.gain)[:3] if found.gain[i] > 0]
    texts = [f"{found.groups[i]} ({abs(found.gain[i]):.4f})" for i in order]
    better = int((found.gain > 0).sum())
    change = "binary" if found.from_float else "float"
    effect = "worse" if found.from_float else "better"
    said = f"{label}: {figure} is {found.base:.4f}. It becomes {effect} with {better} of {len(found.groups)} "
    said += f"groups, if one at a time is made {change}"
    return [f"{said}, most with {', '.join(texts)}." if texts else f"{said}."]


def _suggestion(
    label: str, keep: KeepList | None, figure: str, measured: tuple[float, float] | None, helps: bool
) -> list[str]:
    if keep is None:
        return []
    if not keep.groups:
        return [f"{label}: no group that is worth something fits the budget."]
    if measured is not None and not helps:
        effect = "does not change" if measured[0] == measured[1] else "becomes worse"
        return [
            f"{label}: no keep list is suggested. With {', '.join(keep.groups)} float, {figure} {effect}: "
            f"{measured[1]:.4f}, with every group binary {measured[0]:.4f}. The gains of single groups, "
            f"{keep.gain:+.4f} in all, do not add up."
        ]
    options = " ".join(f"--keep {pattern}" for pattern in keep.patterns)
    said = [
        f"{label}: keep {', '.join(keep.groups)} for {keep.bytes:,.0f} more bytes and "
        f"{keep.ops / 1e6:,.1f} M more OPs per image: {options}"
    ]
    if measured is not None:
        said.append(
            f"{label}: with all of these float, {figure} is {measured[1]:.4f}, with every group binary "
            f"{measured[0]:.4f}; the sum of their single gains is {keep.gain:+.4f}."
        )
    return said
