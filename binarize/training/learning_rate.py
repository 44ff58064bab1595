"""The learning rate as a function of the step: nothing to save, nothing to lose."""

from __future__ import annotations

import math

from binarize.recipes.schema import Schedule


def rate(schedule: Schedule, highest: float, step: int, *, steps_per_epoch: int, epochs: int) -> float:
    """The learning rate of a step.

    OneCycle: from highest / start up to highest after the share `rise` of the training, then down to
    highest / start / end, both along half a cosine; of n positions 0..n - 1 the last is at the end.
    Cosine: of the n positions behind the warm-up, the s-th has highest (1 + cos(pi s / n)) / 2, s = 0..n - 1
    (Loshchilov and Hutter, arXiv 1608.03983, without restarts).
    Warm-up: in the first W steps, 0..W - 1, the rate times (step + 1) / W.

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
    if schedule.name == "cosine":
        before = warming / steps_per_epoch if schedule.per == "epoch" else warming
        return _cosine(highest, 0.0, max(0.0, position - before) / max(1.0, total - before))
    first = highest / schedule.start
    last = first / schedule.end
    top = schedule.rise * total - 1  # where torch.optim.lr_scheduler.OneCycleLR has its peak
    if position <= top:
        return _cosine(first, highest, position / top if top > 0 else 1.0)
    rest = total - 1 - top
    return _cosine(highest, last, (position - top) / rest if rest > 0 else 1.0)


def _cosine(begin: float, end: float, share: float) -> float:
    return end + (begin - end) / 2.0 * (1.0 + math.cos(math.pi * share))
