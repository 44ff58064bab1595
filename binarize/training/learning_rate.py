"""The learning rate as a function of the step: nothing to save, nothing to lose."""

from __future__ import annotations

import math

from binarize.recipes.schema import Schedule


def rate(schedule: Schedule, highest: float, step: int, *, steps_per_epoch: int, epochs: int) -> float:
    """The learning rate of a step.

    OneCycle: from highest / start up to highest after the share `rise` of the training, then down to
    highest / start / end, both along half a cosine; of n positions 0..n - 1 the last is at the end.
    Warm-up: in the first W steps, 0..W - 1, that times (step + 1) / W.

    Args:
        schedule: which.
        highest: the recipe's `lr`.
        step: counted from 0 over all epochs.
        steps_per_epoch: steps of one epoch.
        epochs: of the whole training.
    """
    warming = schedule.warmup_steps or round(schedule.warmup * steps_per_epoch)
    if step < warming:
        highest *= (step + 1) / warming
    if schedule.name == "constant":
        return highest
    total, position = (
        (epochs, step // steps_per_epoch) if schedule.per == "epoch" else (epochs * steps_per_epoch, step)
    )
    first = highest / schedule.start
    last = first / schedule.end
    top = schedule.rise * total - 1  # where torch.optim.lr_scheduler.OneCycleLR has its peak
    if position <= top:
        return _cosine(first, highest, position / top if top > 0 else 1.0)
    rest = total - 1 - top
    return _cosine(highest, last, (position - top) / rest if rest > 0 else 1.0)


def _cosine(begin: float, end: float, share: float) -> float:
    return end + (begin - end) / 2.0 * (1.0 + math.cos(math.pi * share))
