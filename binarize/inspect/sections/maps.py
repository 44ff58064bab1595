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
    figure = style.figure(side * columns, ((side - 0.1) * height / width + 0.24) * len(images) + 0.6)
    grid = figure.subplots(len(images), columns, squeeze=False)
    for row, image in zip(grid, images, strict=True):
        _show(row[0], image, {"cmap": "gray", "vmin": 0, "vmax": 1})
    for place, (label, one) in enumerate(found.items()):
        for index, row in enumerate(grid):
            before, after = row[1 + 2 * place], row[2 + 2 * place]
            _show(before, one.before[index], {"cmap": "viridis"})
            _show(after, one.after[index], {"cmap": "viridis", "vmin": -top, "vmax": top})
            after.set_xlabel(f"{one.entropy[index]:.3f} bits", fontsize=8, labelpad=2)
        grid[0][1 + 2 * place].set_title(f"{style.wrapped(label)}\nbefore", fontsize=8)
        grid[0][2 + 2 * place].set_title(f"{style.wrapped(label)}\nbehind", fontsize=8)
    grid[0][0].set_title("image", fontsize=8)
    return figure


def _show(axes: Any, values: np.ndarray, settings: dict[str, Any]) -> None:
    axes.imshow(values, interpolation="nearest", **settings)
    axes.set_xticks([])
    axes.set_yticks([])
