"""The course of a training in a few characters: its loss and its main figure, epoch by epoch."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

_BARS = "▁▂▃▄▅▆▇█"
WIDTH = 8
"""Characters of a sparkline, at most; of more values, each stands for the mean of several."""


def sparkline(values: Sequence[float], width: int = WIDTH) -> str:
    """Numbers as a line of bars: the least is the lowest, the largest the highest; equal ones are low.

    Args:
        values: finite numbers, at least one.
        width: characters, at most.
    """
    count = min(len(values), width)
    ends = [round(i * len(values) / count) for i in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(ends)]
    low, high = min(means), max(means)
    steps = len(_BARS) - 1
    return "".join(_BARS[round(steps * (v - low) / (high - low)) if high > low else 0] for v in means)


class Curves:
    """The sparklines of a run, as far as it has come.

    Args:
        encoding: of the terminal; where it lacks the bars, the texts are empty.
        wide: show the figure, too, which takes some 20 characters more.
    """

    def __init__(self, encoding: str | None, *, wide: bool = True) -> None:
        self._wide = wide
        try:
            _BARS.encode(encoding or "ascii")
            self._can = True
        except (UnicodeError, LookupError):
            self._can = False
        self._losses: list[float] = []
        self._figures: list[float] = []
        self._name = ""

    def add(self, line: Mapping[str, Any]) -> None:
        """Add the figures of an epoch, as its line of the log holds them."""
        self._losses.append(line["loss"])
        if measured := line.get("val"):
            from binarize.training.figures import figures_in

            known = figures_in(measured)
            if measured[known.main] is not None:
                self._figures.append(measured[known.main])
                self._name = known.title

    def text(self, loss: float) -> str:
        """The losses of all epochs and of the current one, then the figure on `val`, if there are some.

        Empty before the first epoch is over.

        Args:
            loss: mean of the current epoch so far.
        """
        if not self._losses or not self._can:
            return ""
        text = sparkline([*self._losses, loss])
        if self._wide and len(self._figures) > 1:
            text += f"  {self._name} {self._figures[-1]:.3f} {sparkline(self._figures)}"
        return f"{text} "
