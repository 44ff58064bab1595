"""Picture and words of `binarize.inspect.latent_weights`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from binarize.errors import listed
from binarize.inspect import style
from binarize.inspect.latent import EDGES, LatentWeights
from binarize.inspect.section import Section


def weights_section(
    label: str, found: LatentWeights, start: str = "", name: str = "weights", log: str = ""
) -> Section:
    """The latent weights of one network.

    Args:
        label: of the network.
        found: its weights.
        start: why flips since the start are not known, if so.
        name: of the section's files.
        log: what is missing of the run's log, if so.
    """
    return Section(
        name=name,
        analysis="weights",
        title=f"Latent weights: {label}",
        figure=_figure(label, found),
        findings=tuple(_findings(label, found, start, log)),
        warnings=tuple(_warnings(label, found)),
        rows=_rows(label, found),
        data={label: _data(found)},
    )


def _figure(label: str, found: LatentWeights) -> Any:
    packed = bool(np.isnan(found.size).all())
    panels: Mapping[str, Any] = {
        **({} if packed else {"histogram": _histogram}),
        "signs": _signs,
        **({"epochs": _epochs} if len(found.epochs) else {}),
    }
    figure = style.figure(4.8 * len(panels) + 0.6, 4.8)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, draw in zip(grid, panels.values(), strict=True):
        draw(axes, found)
    figure.suptitle(f"{label}{' (packed: signs only)' if packed else ''}", fontsize=11, x=0.02, ha="left")
    return figure


def _histogram(axes: Any, found: LatentWeights) -> None:
    extent = (-0.5, len(found.layers) - 0.5, EDGES[0], EDGES[-1])
    density = found.histogram.T / np.diff(EDGES)[:, None]
    image = axes.imshow(density, aspect="auto", origin="lower", extent=extent, cmap="viridis")
    axes.figure.colorbar(image, ax=axes, label="density", pad=0.01)
    style.layer_axis(axes, found.layers, 3.6)
    axes.set_xlabel("")
    axes.set_ylabel("latent weight, in units of the layer's mean |w|", fontsize=9)
    axes.set_title("distribution in each layer", fontsize=9)


def _signs(axes: Any, found: LatentWeights) -> None:
    place = np.arange(len(found.layers))
    axes.axhline(50, color="0.6", linewidth=0.8, zorder=0)
    looks = style.looks(0) | {"linestyle": "none", "markersize": 4}
    axes.plot(place, 100 * found.positive, label="weights that are +1", **looks)
    if found.flipped is not None:
        looks = style.looks(1) | {"linestyle": "none", "markersize": 4}
        axes.plot(place, 100 * found.flipped, label="flipped since the start", **looks)
    style.layer_axis(axes, found.layers, 3.6)
    axes.set_xlabel("")
    axes.set_ylim(0, 105)
    axes.set_ylabel("share of the layer's weights (%)", fontsize=9)
    axes.set_title("signs", fontsize=9)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8, loc="lower right" if found.flipped is None else "best")


def _epochs(axes: Any, found: LatentWeights) -> None:
    from matplotlib.ticker import MaxNLocator

    for index, (values, text) in enumerate(
        (
            (found.flipped_in_epoch, "flipped in the epoch"),
            (found.without_gradient, "without gradient, last step"),
        )
    ):
        axes.plot(found.epochs, 100 * values, label=text, markersize=3.5, linewidth=1.2, **style.looks(index))
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch", fontsize=9)
    axes.set_ylabel("share of all latent weights (%)", fontsize=9)
    axes.set_title("over the training", fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _findings(label: str, found: LatentWeights, start: str, log: str) -> list[str]:
    total = found.weights.sum()
    positive = float((found.positive * found.weights).sum() / total)
    said = [f"{label}: {100 * positive:.1f} % of {total:,} binary weights are +1."]
    if found.flipped is None:
        said.append(f"{label}: flips since the start are not known: {start or 'the start is not given'}.")
    else:
        known = np.isfinite(found.flipped)
        share = float((found.flipped * found.weights)[known].sum() / max(1, found.weights[known].sum()))
        least = int(np.nanargmin(found.flipped))
        said.append(
            f"{label}: {100 * share:.1f} % have another sign than at the start, the fewest in "
            f"{found.layers[least]} ({100 * found.flipped[least]:.2g} %)."
        )
    if len(found.epochs):
        said.append(
            f"{label}: {100 * found.flipped_in_epoch[0]:.2g} % flipped in epoch {found.epochs[0]}, "
            f"{100 * found.flipped_in_epoch[-1]:.2g} % in epoch {found.epochs[-1]}."
        )
        if log:
            said.append(f"{label}: {log}")
    else:
        said.append(f"{label}: flips of each epoch are not known: {log or 'the log does not have them.'}")
    return said


def _warnings(label: str, found: LatentWeights) -> list[str]:
    said = []
    if names := found.never_flipped:
        said.append(f"{label}: no weight ever changed its sign in {listed(names, 3)}.")
    constant = {name: int(n) for name, n in zip(found.layers, found.constant, strict=True) if n}
    if constant:
        texts = [f"{name} ({constant[name]})" for name in sorted(constant, key=lambda n: -constant[n])]
        said.append(
            f"{label}: {sum(constant.values())} filters have weights of one sign only: {listed(texts, 3)}."
        )
    return said


def _rows(label: str, found: LatentWeights) -> list[dict[str, Any]]:
    flipped = np.full(len(found.layers), np.nan) if found.flipped is None else found.flipped
    return [
        {
            "network": label,
            "layer": name,
            "weights": int(found.weights[i]),
            "positive": found.positive[i],
            "flipped": flipped[i],
            "mean_abs": found.size[i],
            "constant_filters": int(found.constant[i]),
        }
        for i, name in enumerate(found.layers)
    ]


def _data(found: LatentWeights) -> dict[str, Any]:
    return {
        "layers": found.layers,
        "weights": found.weights,
        "positive": found.positive,
        "flipped": found.flipped,
        "mean_abs": found.size,
        "constant_filters": found.constant,
        "bins": EDGES,
        "histogram": found.histogram,
        "epochs": found.epochs,
        "flipped_in_epoch": found.flipped_in_epoch,
        "without_gradient": found.without_gradient,
    }
