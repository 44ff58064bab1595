"""A picture of the confusion matrix: which class was taken for which."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from binarize import files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMED = 40  # classes whose names fit beside the picture
_NUMBERED = 20  # classes whose shares fit into it


def matrix(confusion: Mapping[str, Mapping[str, int]], names: list[str]) -> np.ndarray:
    """Counts (classes, classes) int64, rows by truth, of `ClassificationMetric`'s `confusion`."""
    ids = {name: index for index, name in enumerate(names)}
    counts = np.zeros((len(names), len(names)), dtype=np.int64)
    for true, row in confusion.items():
        for predicted, count in row.items():
            counts[ids[true], ids[predicted]] = count
    return counts


def draw_confusion(confusion: Mapping[str, Mapping[str, int]], path: Path, names: list[str]) -> None:
    """Write a PNG: rows are the truth, columns the predictions, colours the share of a row's images.

    Args:
        confusion: of `ClassificationMetric`.
        path: the file.
        names: of all classes in their order.

    Raises:
        ConfigError: it cannot be written.
    """
    from matplotlib import rc_context

    data = io.BytesIO()
    with rc_context({"text.parse_math": False}):  # a class may be called `$`
        _figure(matrix(confusion, names), names).savefig(data, format="png", metadata={"Software": None})
    files.write_bytes(path, data.getvalue())


def _figure(counts: np.ndarray, names: list[str]) -> Figure:
    from matplotlib.figure import Figure  # without pyplot: no screen, no state

    shares = counts / counts.sum(1, keepdims=True).clip(1)
    side = min(12.0, 3.0 + 0.4 * len(names))
    figure = Figure(figsize=(side + 0.8, side), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, ax=axes, label="% of the images of the class", shrink=0.8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("truth")
    if len(names) <= _NAMED:
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
    if len(names) <= _NUMBERED:
        for row, column in np.argwhere(counts):
            dark = shares[row, column] > 0.5
            text = f"{100 * shares[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color="w" if dark else "k")
    return figure
