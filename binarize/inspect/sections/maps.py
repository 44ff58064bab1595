"""Picture and words of `binarize.inspect.feature_maps`: Figure 3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from binarize.inspect import style
from binarize.inspect.first_maps import FeatureMaps
from binarize.inspect.section import Section


def maps_section(found: Mapping[str, FeatureMaps], images: Sequence[np.ndarray]) -> Section:
    """Maps of several networks, by label.

    Args:
        found: of the same images.
        images: (H, W, 3) in [0, 1], or one channel (H, W, 1).
    """
    means = {label: float(one.entropy.mean()) for label, one in found.items()}
    said = [
        f"{label}: {means[label]:.3f} bits behind the first binarization ({one.layer}), mean of these "
        f"{len(one.entropy)} images."
        for label, one in found.items()
    ]
    rows = [
        {"network": label, "layer": one.layer, "image": index, "entropy": value}
        for label, one in found.items()
        for index, value in enumerate(one.entropy)
    ]
    return Section(
        name="maps",
        analysis="maps",
        title="Feature maps around the first binarization",
        figure=_figure(found, images),
        findings=tuple(said),
        rows=rows,
        data={label: {"layer": one.layer, "entropy": one.entropy} for label, one in found.items()},
    )


def _figure(found: Mapping[str, FeatureMaps], images: Sequence[np.ndarray]) -> Any:
    height, width = images[0].shape[:2]
    columns = 1 + 2 * len(found)
    side = 1.9
    top = max(float(np.abs(m).max()) for one in found.values() for m in one.after)
    figure = style.figure(side * columns, ((side - 0.1) * height / width + 0.24) * len(images) + 1.3)
    grid = figure.subplots(len(images), columns, squeeze=False)
    for row, image in zip(grid, images, strict=True):
        _show(row[0], image, {"cmap": "gray", "vmin": 0, "vmax": 1})
    for place, (label, one) in enumerate(found.items()):
        low, high = min(map(np.min, one.before)), max(map(np.max, one.before))
        drawn: dict[int, Any] = {}
        for index, row in enumerate(grid):
            before, after = row[1 + 2 * place], row[2 + 2 * place]
            drawn[1] = _show(before, one.before[index], {"cmap": "viridis", "vmin": low, "vmax": high})
            drawn[2] = _show(after, one.after[index], {"cmap": "viridis", "vmin": -top, "vmax": top})
            after.set_xlabel(f"{one.entropy[index]:.3f} bits", fontsize=8, labelpad=2)
        for offset, words in ((1, "activation,\nmean of channels"), (2, "bit, -1 or +1,\nmean of channels")):
            column = [row[offset + 2 * place] for row in grid]
            bar = figure.colorbar(drawn[offset], ax=column, location="bottom", fraction=0.05, aspect=12)
            bar.set_label(words, fontsize=7)
            bar.ax.tick_params(labelsize=7)
            bar.ax.locator_params(nbins=3)
        grid[0][1 + 2 * place].set_title(f"{style.wrapped(label)}\nbefore", fontsize=8)
        grid[0][2 + 2 * place].set_title(f"{style.wrapped(label)}\nbehind", fontsize=8)
    grid[0][0].set_title("image", fontsize=8)
    return figure


def _show(axes: Any, values: np.ndarray, settings: dict[str, Any]) -> Any:
    axes.set_xticks([])
    axes.set_yticks([])
    return axes.imshow(values, interpolation="nearest", **settings)
