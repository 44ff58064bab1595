"""A picture of a run: its loss and its figure on `val`, epoch by epoch."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from binarize import files
from binarize.training.figures import figures_in, headline


def draw_curves(history: list[dict[str, Any]], path: Path) -> None:
    """Write a PNG.

    Args:
        history: the figures of every epoch, as `train` returns them.
        path: the file.

    Raises:
        ConfigError: it cannot be written.
    """
    from matplotlib.figure import Figure  # without pyplot: no screen, no state
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7.0, 3.6), dpi=120, layout="constrained")
    left = figure.add_subplot()
    epochs = [line["epoch"] for line in history]
    ring = {"marker": "o", "markersize": 7, "fillstyle": "none"}  # around the other curve's points
    left.plot(epochs, [line["loss"] for line in history], color="tab:blue", **ring)
    left.set_xlabel("epoch")
    left.set_ylabel("training loss", color="tab:blue")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.grid(alpha=0.3)
    looked = [(line["epoch"], *headline(line["val"])) for line in history if "val" in line]
    found = [(epoch, value) for epoch, _, value in looked if value is not None]
    if found:
        right = left.twinx()
        right.plot(*zip(*found, strict=True), color="tab:orange", marker=".")
        plain = [
            (line["epoch"], headline(line["val_without_ema"])[1])
            for line in history
            if "val_without_ema" in line
        ]
        if plain := [(epoch, value) for epoch, value in plain if value is not None]:
            right.plot(*zip(*found, strict=True), color="tab:orange", label="of the averaged weights")
            right.plot(*zip(*plain, strict=True), color="tab:orange", linestyle="--", label="without EMA")
            right.legend(loc="lower center", fontsize="small")
        title = next(figures_in(line["val"]).title for line in history if "val" in line)
        right.set_ylabel(f"{title} on val", color="tab:orange")
    data = io.BytesIO()
    figure.savefig(data, format="png", metadata={"Software": None})
    files.write_bytes(path, data.getvalue())
