"""The loss of the best prediction that does not depend on the image: a training should end below it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from binarize.errors import warn
from binarize.training.losses import SegmentationLoss, SiLog
from binarize.training.run import Run

STEPS = 20
"""A run of fewer steps is a try-out, of which no one expects that much."""


def class_entropy(counts: Tensor, weights: Tensor | None = None) -> float:
    """min_q -sum_c w_c n_c log q_c / sum_c w_c n_c, which is reached by q_c proportional to w_c n_c.

    Args:
        counts: pixels n_c of each class (classes,).
        weights: w_c (classes,), 1 by default.
    """
    mass = counts.double() if weights is None else counts.double() * weights.double().cpu()
    share = mass / mass.sum()
    return float(-torch.xlogy(share, share).sum())


def depth_spread(count: float, logs: float, squares: float) -> float:
    """min_c 10 sqrt(mean d^2 - lambda (mean d)^2), d = c - ln t: 10 times the standard deviation of ln t.

    Whatever lambda < 1 is, c is the mean of ln t: (1 - lambda) (mean d)^2 is added to the variance.

    Args:
        count: of depths t.
        logs: sum of ln t.
        squares: sum of (ln t)^2.
    """
    mean = logs / count
    return 10.0 * max(squares / count - mean * mean, 0.0) ** 0.5


def constant_loss(loss: nn.Module, counts: Tensor) -> float | None:
    """The least loss of a constant prediction over one epoch; None for other losses than the usual ones.

    Args:
        loss: of the training.
        counts: `Tally.counts` of that epoch, of all processes.
    """
    if type(loss) is SegmentationLoss:
        weights = loss.weights
        number = len(weights) if weights is not None else len(counts)
        return class_entropy(counts[:number], weights)
    if type(loss) is SiLog:
        return depth_spread(*counts.tolist())
    return None


def warn_of_loss(run: Run) -> None:
    """Warn if the last epoch's loss is above that of a constant prediction."""
    if run.constant_loss is None or run.teacher is not None or run.progress.step < STEPS or not run.is_main:
        return
    last = run.progress.history[-1]["loss"]
    if last > run.constant_loss:
        warn(
            f"the loss at the end, {last:.4g}, is above {run.constant_loss:.4g}, that of one prediction for "
            "all pixels: the network has learned nothing from the images. Another training.lr or more epochs "
            "may help; `binarize data check` looks at the truths, `method: null` trains the float network."
        )
