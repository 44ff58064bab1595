"""The figures of each task: which is the main one, and what tables and lines call them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a task measures.

    Attributes:
        main: name of the main figure.
        title: what texts call it.
        columns: names of the figures that a table of runs shows, and their heads.
        line: names of the figures in a line of text, and the words for them.
    """

    main: str
    title: str
    columns: Mapping[str, str]
    line: Mapping[str, str]


SEGMENTATION = Figures(
    main="miou",
    title="mIoU",
    columns={"pixel_accuracy": "pixel acc. %", "miou": "mIoU %"},
    line={"miou": "mIoU", "pixel_accuracy": "acc"},
)
DEPTH = Figures(
    main="abs_rel",
    title="AbsRel",
    columns={
        "delta1": "delta1",
        "delta2": "delta2",
        "delta3": "delta3",
        "abs_rel": "AbsRel",
        "rmse": "RMSE m",
        "log10": "log10",
        "silog": "SILog",
    },
    line={"abs_rel": "AbsRel", "delta1": "delta1"},
)
CLASSIFICATION = Figures(
    main="top1",
    title="top-1",
    columns={"top1": "top-1 %", "top5": "top-5 %"},
    line={"top1": "top-1", "top5": "top-5"},
)
ALL = {"segmentation": SEGMENTATION, "depth": DEPTH, "classification": CLASSIFICATION}
"""By name of the task."""


LARGE = ("confusion",)
"""Names of figures that grow with the square of the classes: no log of epochs holds them."""


def task_in(measured: Mapping[str, Any]) -> str:
    """The task whose figures these are.

    Raises:
        KeyError: of none.
    """
    for task, figures in ALL.items():
        if figures.main in measured:
            return task
    raise KeyError(f"no main figure among {', '.join(measured)}")


def figures_in(measured: Mapping[str, Any]) -> Figures:
    """What is known of measured figures, by the main one among them.

    Raises:
        KeyError: they are of no known task.
    """
    return ALL[task_in(measured)]


def headline(measured: Mapping[str, Any]) -> tuple[str, float | None]:
    """Name and value of the main figure."""
    name = figures_in(measured).main
    return name, measured[name]
