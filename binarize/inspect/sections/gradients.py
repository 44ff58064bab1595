"""Picture and words of `binarize.inspect.gradients`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from binarize.errors import listed
from binarize.inspect import style
from binarize.inspect.gradient_norms import Gradients
from binarize.inspect.section import Section


def gradients_section(found: Mapping[str, Gradients]) -> Section:
    """The gradients of several networks, by label."""
    return Section(
        name="gradients",
        analysis="gradients",
        title="Gradient that reaches the latent weights",
        figure=_figure(found),
        findings=tuple(_finding(label, one) for label, one in found.items()),
        warnings=tuple(said for label, one in found.items() for said in _warnings(label, one)),
        rows=[row for label, one in found.items() for row in _rows(label, one)],
        data={label: _data(one) for label, one in found.items()},
    )


def _figure(found: Mapping[str, Gradients]) -> Any:
    figure, upper, lower, places = style.tall_above_low([one.layers for one in found.values()])
    for index, (place, (label, one)) in enumerate(zip(places, found.items(), strict=True)):
        looks = style.looks(index) | {"markersize": 3.5, "linewidth": 1.0}
        there = np.where(one.relative > 0, one.relative, np.nan)
        upper.plot(place, there, label=label, **looks)
        lower.plot(place, 100 * one.without, **looks)
        dead = [x for x, share in zip(place, one.without, strict=True) if share == 1]
        if dead:
            least = np.nanmin(there) if np.isfinite(there).any() else 1.0
            upper.plot(
                dead, [least] * len(dead), "x", color="black", markersize=7, label=f"{label}: no gradient"
            )
    if any((one.relative > 0).any() for one in found.values()):
        upper.set_yscale("log")
    upper.set_ylabel("norm of the gradient / norm of the weights", fontsize=9)
    style.legend_above(figure, upper)
    lower.set_ylim(-3, 103)
    lower.set_ylabel("weights without\ngradient (%)", fontsize=9)
    return figure


def _finding(label: str, one: Gradients) -> str:
    alive = np.where(one.relative > 0, one.relative, np.nan)
    if not np.isfinite(alive).any():
        return f"{label}: no latent weight gets a gradient."
    low, high = int(np.nanargmin(alive)), int(np.nanargmax(alive))
    return (
        f"{label}: the gradient, relative to the weights, is largest at {one.layers[high]} "
        f"({alive[high]:.2g}) and smallest at {one.layers[low]} ({alive[low]:.2g}), "
        f"{alive[high] / alive[low]:.0f} times less."
    )


def _warnings(label: str, one: Gradients) -> list[str]:
    said = []
    if one.dead:
        said.append(f"{label}: dead layers, whose weights get no gradient: {listed(one.dead, 4)}.")
    parts = {n: int(k) for n, k in zip(one.layers, one.dead_filters, strict=True) if k and n not in one.dead}
    if parts:
        texts = [f"{name} ({parts[name]})" for name in sorted(parts, key=lambda n: -parts[n])]
        said.append(
            f"{label}: {sum(parts.values())} filters get no gradient in {one.batches} batches: "
            f"{listed(texts, 3)}."
        )
    return said


def _rows(label: str, one: Gradients) -> list[dict[str, Any]]:
    return [
        {
            "network": label,
            "layer": name,
            "norm": one.norm[i],
            "relative": one.relative[i],
            "without": one.without[i],
            "dead_filters": int(one.dead_filters[i]),
        }
        for i, name in enumerate(one.layers)
    ]


def _data(one: Gradients) -> dict[str, Any]:
    return {
        "layers": one.layers,
        "norm": one.norm,
        "relative": one.relative,
        "without": one.without,
        "dead_filters": one.dead_filters,
        "batches": one.batches,
    }
