"""Where a training is, and what it reports on its way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True)
class Progress:
    """Where a training is.

    Attributes:
        step: steps done, over all epochs.
        steps: of an epoch.
        loss: sum of this epoch's losses so far.
        history: figures of every epoch that is over.
        planned: epochs by which schedules count; those of the recipe, also after it was extended.
        best: epoch (from 1), name and value of the main figure of the best network that is kept, if any.
        changes: settings that were changed in the middle: the epochs done by then, name, old and new value.
    """

    step: int = 0
    steps: int = 0
    loss: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    planned: int = 0
    best: dict[str, Any] | None = None
    changes: list[dict[str, Any]] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Whole epochs that are over."""
        return self.step // self.steps if self.steps else 0


@dataclass(frozen=True, kw_only=True)
class Event:
    """What happened: a step, or the end of an epoch.

    Attributes:
        epoch: counted from 0.
        step: steps done in this epoch.
        steps: of an epoch.
        loss: mean over this epoch so far.
        rate: learning rate.
        images: per step.
        figures: at the end of an epoch, what its line of the log holds; else empty.
    """

    epoch: int
    step: int
    steps: int
    loss: float
    rate: float
    images: int
    figures: dict[str, Any]
