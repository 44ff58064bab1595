"""Picture and words of `binarize.inspect.parameters`: Figures 6a to 6c."""

from __future__ import annotations

from typing import Any

import numpy as np

from binarize.inspect import style
from binarize.inspect.learnt_parameters import LearntParameters
from binarize.inspect.roles import OTHERS
from binarize.inspect.section import Section

_MOST = 4
"""Panels in a row."""


def parameters_section(label: str, found: LearntParameters, name: str = "parameters") -> Section:
    """The learnt parameters of one network, which learns some."""
    return Section(
        name=name,
        analysis="parameters",
        title=f"Learnt parameters of the quantizers: {label}",
        figure=_figure(label, found),
        findings=tuple(_findings(label, found)),
        rows=[row for parameter in found.values for row in _rows(label, found, parameter)],
        data={label: {"layers": found.layers, "roles": found.roles, "values": found.values}},
    )


def _figure(label: str, found: LearntParameters) -> Any:
    columns = min(_MOST, len(found.values))
    rows = -(-len(found.values) // _MOST)
    figure = style.figure(max(6.0, 4.0 * columns), 3.9 * rows + 0.5)
    grid = figure.subplots(rows, columns, squeeze=False).flat
    roles = sorted(set(found.roles), key=lambda role: (role == OTHERS, found.roles.index(role)))
    for axes, (parameter, values) in zip(grid, found.values.items(), strict=False):
        for index, role in enumerate(roles):
            looks = style.looks(len(style.COLOURS) - 1 if role == OTHERS else index)
            _bars(
                axes,
                [v if r == role else v[:0] for v, r in zip(values, found.roles, strict=True)],
                role,
                looks,
            )
        axes.axhline(0, color="0.6", linewidth=0.8, zorder=0)
        style.layer_axis(axes, found.layers, 3.4)
        axes.set_xlabel("")
        axes.set_title(parameter, fontsize=11)
        axes.grid(axis="y", alpha=0.3)
    for axes in list(grid)[len(found.values) :]:
        axes.set_axis_off()
    figure.supxlabel("binary layers, shallow to deep; labels stand where a part begins", fontsize=9)
    figure.supylabel("value: median of the channels, 5 to 95 %", fontsize=9)
    handles, texts = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside upper right", ncols=len(texts), fontsize=8, frameon=False)
    figure.suptitle(label, fontsize=11, x=0.02, ha="left")
    return figure


def _bars(axes: Any, values: list[np.ndarray], role: str, looks: dict[str, Any]) -> None:
    """A mark at each layer's median, and a line over most of its channels."""
    there = [i for i, one in enumerate(values) if len(one)]
    low, middle, high = (np.array([np.quantile(values[i], q) for i in there]) for q in (0.05, 0.5, 0.95))
    axes.vlines(there, low, high, color=looks["color"], linewidth=1.2, alpha=0.6)
    axes.plot(there, middle, looks["marker"], color=looks["color"], markersize=4, label=role)


def _findings(label: str, found: LearntParameters) -> list[str]:
    said = []
    for parameter, values in found.values.items():
        every = np.concatenate(values)
        means = found.means[parameter]
        largest = int(np.nanargmax(np.abs(means)))
        said.append(
            f"{label}: {parameter} is {every.mean():.3g} on average, {np.quantile(every, 0.05):.3g} to "
            f"{np.quantile(every, 0.95):.3g} in 90 % of the channels; its layer mean is largest at "
            f"{found.layers[largest]} ({means[largest]:.3g})."
        )
    return said


def _rows(label: str, found: LearntParameters, parameter: str) -> list[dict[str, Any]]:
    rows = []
    for layer, role, one in zip(found.layers, found.roles, found.values[parameter], strict=True):
        if len(one):
            low, middle, high = np.quantile(one, [0.05, 0.5, 0.95])
            rows.append(
                {
                    "network": label,
                    "layer": layer,
                    "role": role,
                    "parameter": parameter,
                    "values": len(one),
                    "mean": one.mean(),
                    "std": one.std(),
                    "q05": low,
                    "median": middle,
                    "q95": high,
                }
            )
    return rows
