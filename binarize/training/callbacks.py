"""The caller's callbacks in a training: what they receive, and how they end it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from binarize.training.progress import Event


class StopTraining(Exception):  # noqa: N818 - a request, not an error
    """Raised by a callback to end the training: after this step, or after this epoch.

    All is saved, and `on_end` is called. The text of the exception is the reason, and is reported. The run
    can be resumed like one that was interrupted.
    """


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a training is, before its first step.

    Attributes:
        out: folder of the run.
        recipe: as plain values; see `binarize.recipes.schema`.
        epochs: of the whole training.
        steps: of an epoch.
        step: steps that are done already, in a run that is resumed.
        images: in the training split.
        device: `cpu`, `cuda:0`...
    """

    out: Path
    recipe: Mapping[str, Any]
    epochs: int
    steps: int
    step: int
    images: int
    device: str


@dataclass(frozen=True, kw_only=True)
class End:
    """How a training ended.

    Attributes:
        out: folder of the run.
        history: figures of every epoch, as in the log.
        stopped: why it ended before its last epoch; empty if it did not.
    """

    out: Path
    history: Sequence[Mapping[str, Any]]
    stopped: str


class Callback:
    """What a training reports; a subclass overrides the methods that it needs.

    All methods are called in the main process, with plain data. Each may raise `StopTraining`. Another
    exception ends the training too, once the other processes know: all is saved, so that the run can be
    resumed, and the exception is raised. A callback need not be a subclass: a missing method is not called.
    """

    def on_start(self, start: Start) -> None:
        """Before the first step."""

    def on_step(self, event: Event) -> None:
        """After a step; `event.figures` is empty."""

    def on_evaluate(self, epoch: int, figures: Mapping[str, Any]) -> None:
        """After an evaluation of the validation split.

        Args:
            epoch: counted from 1.
            figures: `val`, and with `training.ema` also `val_without_ema`, as in the log.
        """

    def on_epoch(self, figures: Mapping[str, Any]) -> None:
        """After an epoch, with its line of the log; checkpoints are written by then."""

    def on_end(self, end: End) -> None:
        """At the end, when all is saved; not after an error, nor after Ctrl-C."""


class Callbacks:
    """All callbacks of a training, and whether one of them wants it to end.

    Args:
        callbacks: in the order in which they are called.
        on: False for a process that calls none.

    Attributes:
        reason: why a callback ends the training; None if none does.
        failure: the exception of a callback; None if there was none.
    """

    def __init__(self, callbacks: Sequence[Any] = (), *, on: bool = True) -> None:
        self._callbacks = tuple(callbacks) if on else ()
        self.reason: str | None = None
        self.failure: Exception | None = None

    def call(self, name: str, *given: Any) -> None:
        """Call a method of all of them; after an exception no more."""
        for callback in self._callbacks:
            method = getattr(callback, name, None)
            if method is None or self.failure is not None:
                continue
            try:
                method(*given)
            except StopTraining as stop:
                self.reason = self.reason or str(stop) or f"{type(callback).__name__} ended it"
            except Exception as error:
                self.failure = error
