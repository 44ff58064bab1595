"""Accuracy against milliseconds, for all forms of networks: a panel for each data set."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from binarize.errors import ConfigError
from binarize.forms.made import FLOAT, INT8, ONE_BIT
from binarize.forms.table import figure_names, megabytes, ordered, shown
from binarize.tables import DOWN, better

_STYLES = {FLOAT: ("#0072B2", "o"), INT8: ("#D55E00", "s"), ONE_BIT: ("#009E73", "D")}
"""Colour (Okabe and Ito: told apart by the colour-blind) and shape by kind of numbers."""

_LARGEST, _SMALLEST = 600.0, 25.0  # square points, of the largest file of a panel, and at the least
_ALIKE = 60.0  # of all, where no file is twice as large as another
_GAP = 0.065  # between labels, of a panel's height


def picture(document: Mapping[str, Any], figure: str | None = None) -> bytes:
    """A PNG: the main figure by the milliseconds of one image; a mark's area is the size of the file.

    Rows without a time or a figure are left out. A figure that is better if lower runs downwards, so that
    better is always higher up.

    Args:
        document: what `measure` gives.
        figure: to draw in place of the main one, where rows have it.

    Raises:
        ConfigError: there is nothing to draw.
    """
    from matplotlib.figure import Figure  # without pyplot: no screen, no state

    panels = []
    for data, group in document["data"].items():
        name = figure if figure in figure_names(group) else next(iter(figure_names(group)))
        rows = [row for row in ordered(group) if "ms" in row and name in row.get("figures", {})]
        if rows:
            panels.append((data, name, figure_names(group)[name], rows, group))
    if not panels:
        raise ConfigError("picture: no row has both a time and a figure.")
    found = {row["form"] for *_, rows, _ in panels for row in rows}
    kinds = [kind for kind in _STYLES if kind in found]
    drawn = Figure(figsize=(7.6, 3.8 * len(panels) + 0.5), dpi=110, layout="constrained")
    for axes, (data, name, title, rows, group) in zip(
        drawn.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True
    ):
        _draw(axes, name, title, rows)
        height, width = group["size"]
        only = f"{kinds[0]}: " if len(kinds) == 1 else ""
        axes.set_title(
            f"{only}{data}, one image of {height}x{width}, threads: {group['threads']}", fontsize=10
        )
    if len(kinds) > 1:
        _legend(drawn, kinds)
    stream = io.BytesIO()
    drawn.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _draw(axes: Any, name: str, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    least, largest = (f(row["bytes"] for row in rows) for f in (min, max))
    points = [(row["ms"], shown(name, row["figures"][name], title)) for row in rows]
    for row, (x, y) in zip(rows, points, strict=True):
        colour, shape = _STYLES[row["form"]]
        area = max(_SMALLEST, (_LARGEST if largest > 2 * least else _ALIKE) * row["bytes"] / largest)
        axes.scatter([x], [y], s=area, color=colour, marker=shape, alpha=0.75, linewidths=0, zorder=3)
    low, high = min(y for _, y in points), max(y for _, y in points)
    margin = 0.15 * ((high - low) or abs(high) or 1.0)
    axes.set_ylim(low - margin, high + margin)
    if DOWN in better(name):
        axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * max(x for x, _ in points))
    axes.set(xlabel="milliseconds of one image", ylabel=f"{title}{better(name)}")
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    _label(axes, rows, points)


def _label(axes: Any, rows: Sequence[Mapping[str, Any]], points: Sequence[tuple[float, float]]) -> None:
    """Names to the right of the panel, in the order of the marks' heights, apart enough to be read."""
    inside = axes.transAxes.inverted()
    heights = [inside.transform(axes.transData.transform(point))[1] for point in points]
    order = sorted(range(len(rows)), key=lambda i: heights[i])
    places = spread([heights[i] for i in order], _GAP)
    for index, height in zip(order, places, strict=True):
        row = rows[index]
        colour, _ = _STYLES[row["form"]]
        words = row["network"] if row["form"] == ONE_BIT else f"{row['form']}, {row['runner']}"
        axes.annotate(
            f"{words}, {megabytes(row)}",
            points[index],
            xytext=(1.04, height),
            textcoords="axes fraction",
            annotation_clip=False,
            fontsize=8,
            va="center",
            arrowprops={
                "arrowstyle": "-",
                "relpos": (0, 0.5),
                "color": colour,
                "linewidth": 0.6,
                "alpha": 0.7,
            },
        )


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Ascending values from 0 to 1, moved apart so that neighbours differ by `gap`, or less if they must."""
    gap = min(gap, 1.0 / max(1, len(values)))
    found: list[float] = []
    for value in values:
        found.append(max(value, found[-1] + gap) if found else value)
    over = 1.0 - gap / 2
    for i in reversed(range(len(found))):
        found[i] = min(found[i], over)
        over = found[i] - gap
    return found


def _legend(drawn: Any, kinds: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    marks = [
        Line2D([], [], color=_STYLES[kind][0], marker=_STYLES[kind][1], linestyle="", label=kind)
        for kind in kinds
    ]
    drawn.legend(
        handles=marks,
        loc="outside lower center",
        ncols=len(marks),
        frameon=False,
        fontsize=9,
        title="area: bytes of the file",
        title_fontsize=8,
    )
