"""The figures of each epoch for TensorBoard, where that is installed."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any


def available() -> bool:
    """Whether the package tensorboard is there."""
    return importlib.util.find_spec("tensorboard") is not None


@contextlib.contextmanager
def event_log(folder: Path, done: int, *, on: bool = True) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yields a function that adds an epoch's figures to the event files; without tensorboard it does nothing.

    Args:
        folder: of the run.
        done: epochs that are over; what a run that was killed wrote of later ones is hidden.
        on: False for a process that writes nothing.
    """
    if not on or not available():
        yield lambda figures: None
        return
    from torch.utils.tensorboard.writer import SummaryWriter

    with contextlib.ExitStack() as stack:
        writers: list[SummaryWriter] = []

        def add(figures: Mapping[str, Any]) -> None:
            """Numbers by name, and mappings of them; what is neither is left out."""
            if not writers:  # a run that fails in its first epoch leaves no file
                writers.append(stack.enter_context(SummaryWriter(str(folder), purge_step=done + 1)))
            for name, value in _numbers(figures):
                writers[0].add_scalar(name, value, figures["epoch"])
            writers[0].flush()

        yield add


def _numbers(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and name != "epoch":
            yield f"{prefix}{name}", float(value)
