"""Curves of a run as SVG, once for a light page and once for a dark one; the background is transparent."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from binarize.tables import better
from binarize.training.figures import figures_in

_INK = {"light": ("#3d4450", "#0072b2"), "dark": ("#c3cad6", "#56b4e9")}
"""Of text and lines, and of the curve; distinct for colour-blind readers (Okabe and Ito)."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One curve over the epochs.

    Attributes:
        title: what it shows, for people.
        light: SVG for a light page.
        dark: SVG for a dark page.
        text: first, best and last value, for readers who do not see the picture.
    """

    title: str
    light: bytes
    dark: bytes
    text: str


def curves(history: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """Loss, main figure on `val`, share of latent weights that changed sign: those that the log holds."""
    found: list[Curve] = []
    series: list[tuple[str, list[tuple[int, float]]]] = [("training loss", _values(history, "loss"))]
    looked = [line for line in history if line.get("val")]
    if looked:
        known = figures_in(looked[0]["val"])
        points = [(line["epoch"], line["val"][known.main]) for line in looked]
        title = f"{known.title} on val{better(known.main)}"
        series.append((title, [(e, v) for e, v in points if v is not None]))
    series.append(("share of latent weights whose sign changed", _values(history, "flipped")))
    for title, values in series:
        if values:
            found.append(
                Curve(
                    title=title,
                    light=_drawn(values, "light"),
                    dark=_drawn(values, "dark"),
                    text=f"{title}: {values[0][1]:.4g} after epoch {values[0][0]}, "
                    f"{values[-1][1]:.4g} after epoch {values[-1][0]}",
                )
            )
    return found


def _values(history: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    return [(line["epoch"], line[name]) for line in history if line.get(name) is not None]


def _drawn(values: Sequence[tuple[int, float]], page: str) -> bytes:
    import matplotlib as mpl
    from matplotlib.figure import Figure  # without pyplot: no screen, no state
    from matplotlib.ticker import MaxNLocator

    ink, colour = _INK[page]
    style: Any = {"svg.hashsalt": "binarize", "font.size": 13, "axes.edgecolor": ink, "text.color": ink}
    style |= {"axes.labelcolor": ink, "xtick.color": ink, "ytick.color": ink}
    with mpl.rc_context(style):
        figure = Figure(figsize=(5.2, 2.7), layout="constrained")
        axes = figure.add_subplot()
        marker = {"marker": "o", "markersize": 4} if len(values) < 30 else {}
        axes.plot(*zip(*values, strict=True), color=colour, linewidth=2, **marker)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25, color=ink)
        axes.spines[["top", "right"]].set_visible(False)
        data = io.BytesIO()
        figure.savefig(data, format="svg", transparent=True, metadata={"Date": None})
    return data.getvalue()
