"""What all pictures share: colours, line styles, sizes, and an axis of layers."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Distinct for colour-blind readers (Okabe and Ito, Color Universal Design, without its yellow)."""
MARKERS = "osD^vPX"
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
GREY = "0.55"
_MOST_TICKS = 24
_LETTERS = 0.14  # inches that a line of an axis label takes


def figure(width: float, height: float) -> Any:
    """A figure of this size in inches, without a screen or state of pyplot."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def tall_above_low(lists: Sequence[Sequence[str]]) -> tuple[Any, Any, Any, list[np.ndarray]]:
    """A figure of two panels, one above the other, over the layers of several networks.

    Args:
        lists: the names of the layers of each network.

    Returns:
        The figure, its tall panel, its low panel, and the places of each network's layers on their x axis.
    """
    made = figure(9.0, 6.2)
    upper, lower = made.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [2, 1]})
    found, names = places(lists)
    for axes in (upper, lower):
        layer_axis(axes, names, 8.0)
        axes.grid(axis="y", alpha=0.3)
    upper.set_xlabel("")
    upper.tick_params(axis="x", labelbottom=False)
    return made, upper, lower, found


def looks(index: int) -> dict[str, Any]:
    """Colour, marker and dashes of the index-th line: each alone tells lines apart."""
    place = index % len(COLOURS)
    return {"color": COLOURS[place], "marker": MARKERS[place], "linestyle": DASHES[place]}


def legend_above(figure: Any, axes: Any) -> None:
    """The legend of the axes above all of them, where it hides nothing."""
    handles, texts = axes.get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside upper right", ncols=4, fontsize=8, frameon=False)


def wrapped(label: str) -> str:
    """A network's name in lines of about 16 letters, for narrow places."""
    return "\n".join(textwrap.wrap(label, 16, break_long_words=False))


def places(lists: Sequence[Sequence[str]]) -> tuple[list[np.ndarray], Sequence[str]]:
    """Where the layers of several networks stand on one axis: that of the network with most layers.

    A layer that it builds of several parts, or that is a part of one of its layers, stands at their middle.

    Returns:
        For each network the places of its layers, and the names of all places, or none: networks with other
        layers stand by their relative depth, 0 to 1.
    """
    longest = max(lists, key=len, default=())
    found = [[_place(name, longest) for name in names] for names in lists]
    if all(place is not None for one in found for place in one):
        return [np.array(one, dtype=float) for one in found], longest
    return [np.linspace(0.0, 1.0, len(names)) for names in lists], ()


def _place(name: str, names: Sequence[str]) -> float | None:
    same = [i for i, other in enumerate(names) if other == name]
    near = same or [
        i for i, o in enumerate(names) if f"{o}.".startswith(f"{name}.") or name.startswith(f"{o}.")
    ]
    return sum(near) / len(near) if near else None


def layer_axis(axes: Any, names: Sequence[str], width: float) -> None:
    """Label the x axis with the parts of the network that begin there, with a line in front of each.

    Args:
        axes: the x axis is that of `places`.
        names: of the layers; none for relative depth.
        width: of the axes, inches: labels that would lie on the one before are left out.
    """
    if not names:
        axes.set_xlabel("relative depth: 0 is the first layer, 1 the last")
        return
    starts = _starts(names)
    for start, _ in starts[1:]:
        axes.axvline(start - 0.5, color="0.85", linewidth=0.8, zorder=0)
    ticks: list[tuple[int, str]] = []
    for start, label in starts:
        if not ticks or (start - ticks[-1][0]) * width / len(names) >= _LETTERS:
            ticks.append((start, label))
    axes.set_xticks([start for start, _ in ticks], [label for _, label in ticks], fontsize=8)
    axes.tick_params(axis="x", rotation=90)
    axes.set_xlim(-0.7, len(names) - 0.3)
    axes.set_xlabel("binary layers in the order of the run; labels stand where a part begins", fontsize=9)


def _starts(names: Sequence[str]) -> list[tuple[int, str]]:
    """Where parts begin, and their names: two parts of each path, or one where that gives too many."""
    for depth in (2, 1):
        parts = [".".join(name.split(".")[:depth]) for name in names]
        found = [(0, parts[0])]
        found += [(i, new) for i, (old, new) in enumerate(itertools.pairwise(parts), start=1) if old != new]
        if len(found) <= _MOST_TICKS:
            return found
    step = -(-len(names) // _MOST_TICKS)
    return [(i, names[i]) for i in range(0, len(names), step)]
