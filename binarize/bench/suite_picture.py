"""A picture of the suite: times relative to the packed network, and the gain over the fastest rival."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from binarize.bench.suite import LAYER, PACKED

_COLOURS = {PACKED: "tab:green", LAYER: "yellowgreen"}
_OTHERS = ("blue", "orange", "red", "purple", "brown", "pink", "gray", "olive", "cyan")  # no green
_SHAPES = "os^vPXh<>"


def suite_picture(document: Mapping[str, Any]) -> bytes:
    """A PNG of a suite's document with at least one row without an error.

    On the left, a mark for each baseline at the time that it takes, in times of the packed network's. On the
    right, a bar for each packed network: how many times as fast as the fastest baseline it is.
    """
    from matplotlib.figure import Figure  # without pyplot: no screen, no state

    rows = [row for row in document["rows"] if "error" not in row]
    names = [_label(row) for row in rows]
    figure = Figure(figsize=(12.0, 1.6 + 0.36 * max(3, len(rows))), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, gridspec_kw={"width_ratios": [3, 2]})
    _marks(left, rows, document["against"])
    _bars(right, rows, document["summary"])
    left.set_yticks(range(len(rows)), names)
    left.invert_yaxis()
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=len(labels), frameon=False, fontsize=9)
    data = io.BytesIO()
    figure.savefig(data, format="png", metadata={"Software": None})
    return data.getvalue()


def _label(row: Mapping[str, Any]) -> str:
    """The network's name without its arguments, and the image's size if it is not the usual one."""
    name = row["network"].partition("?")[0]
    return name if row["size"] == 224 else f"{name}, {row['size']}"


def _marks(axes: Any, rows: list[Any], against: list[str]) -> None:
    axes.axvline(1.0, color=_COLOURS[PACKED], linewidth=2, label=PACKED)
    layer = [(row["ratios"][LAYER], row["ratios"][PACKED], y) for y, row in enumerate(rows) if _both(row)]
    places = [(packed["best"] / own["best"], y) for own, packed, y in layer if "best" in own]
    if places:
        axes.plot(*zip(*places, strict=True), "D", color=_COLOURS[LAYER], label=LAYER)
    for index, name in enumerate(against):
        found = [(row["ratios"][PACKED].get(name), y) for y, row in enumerate(rows)]
        found = [(x, y) for x, y in found if x is not None]
        if found:
            axes.plot(
                *zip(*found, strict=True), _SHAPES[index % 9], color=f"tab:{_OTHERS[index % 9]}", label=name
            )
    axes.set_xscale("log")
    ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20) if axes.get_xlim()[0] <= t <= axes.get_xlim()[1]]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.set_title("time, as a multiple of the packed network's", fontsize=10)


def _both(row: Mapping[str, Any]) -> bool:
    return LAYER in row["ratios"]


def _bars(axes: Any, rows: list[Any], summary: Mapping[str, Any]) -> None:
    shown = [name for name in (PACKED, LAYER) if name in summary and "best" in summary[name]]
    height = 0.8 / max(1, len(shown))
    most = 0.0
    for index, name in enumerate(shown):
        found = [(row["ratios"].get(name, {}).get("best"), y) for y, row in enumerate(rows)]
        places = [y + (index - (len(shown) - 1) / 2) * height for x, y in found if x is not None]
        values = [x for x, _ in found if x is not None]
        bars = axes.barh(places, values, height, color=_COLOURS[name])
        axes.bar_label(bars, [f"{value:.2f}" for value in values], padding=3, fontsize=8)
        most = max([most, *values])
    axes.axvline(1.0, color="0.3", linewidth=1)
    axes.set_xlim(0, 1.15 * max(most, 1.0))
    means = ", ".join(f"{name} {summary[name]['best']['geometric_mean']:.2f}" for name in shown)
    axes.set_title(f"times as fast as the fastest of the others\n(geometric mean: {means})", fontsize=10)
