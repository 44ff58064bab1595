"""Which epoch was best on the validation split, and for how long none was better."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from binarize.recipes.schema import Training
from binarize.tables import DOWN, better
from binarize.training.figures import headline

Line = Mapping[str, Any]
"""The figures of an epoch, as in the log."""


def is_better(figure: str, value: float | None, than: float | None, delta: float = 0.0) -> bool:
    """Whether a value of a figure is better than another one, by more than `delta`.

    Args:
        figure: its name: `miou` is better if higher, `abs_rel` if lower.
        value: None or NaN is never better.
        than: None or NaN: any other value is better.
        delta: not negative.
    """
    if value is None or math.isnan(value):
        return False
    if than is None or math.isnan(than):
        return True
    return value < than - delta if DOWN in better(figure) else value > than + delta


def looks(history: Iterable[Line], part: str = "val") -> list[tuple[int, str, float | None]]:
    """Epoch (from 1), name and value of the main figure, for each epoch that was evaluated.

    Args:
        history: of a run.
        part: of the figures: `val`, or `val_without_ema`.
    """
    return [(line["epoch"], *headline(line[part])) for line in history if part in line]


def best_of(history: Iterable[Line], part: str = "val") -> tuple[int, str, float] | None:
    """Epoch, name and value of the best main figure, the first of equal ones; None if there is none."""
    best: tuple[int, str, float] | None = None
    for epoch, name, value in looks(history, part):
        if value is not None and is_better(name, value, None if best is None else best[2]):
            best = epoch, name, value
    return best


def waited(history: Sequence[Line], delta: float = 0.0) -> int:
    """How many evaluations ago the main figure was better, by more than `delta`, than all before."""
    best: float | None = None
    count = 0
    for _, name, value in looks(history):
        if is_better(name, value, best, delta if best is not None else 0.0):
            best, count = value, 0
        else:
            count += 1
    return count


def ran_out(history: Sequence[Line], settings: Training) -> bool:
    """Whether a run ends early: `training.patience` evaluations in a row were not better."""
    return settings.patience is not None and waited(history, settings.min_delta) >= settings.patience


def is_complete(history: Sequence[Line], settings: Training) -> bool:
    """Whether all epochs are done, or the run ended early by `training.patience`."""
    return len(history) >= settings.epochs or ran_out(history, settings)
