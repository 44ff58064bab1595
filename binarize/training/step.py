"""One step of a training: images and truths in, all weights changed once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from binarize.errors import ConfigError
from binarize.layers import set_progress
from binarize.training.averaging import decay_at
from binarize.training.build import memory_format
from binarize.training.distributed import all_sum
from binarize.training.evaluation import SMALL, resized
from binarize.training.folder import STATE
from binarize.training.health import last_norm, not_finite
from binarize.training.learning_rate import rate
from binarize.training.outputs import selected
from binarize.training.run import Run


def train_step(run: Run, images: Tensor, targets: Tensor, *, epoch: int, step: int) -> float:
    """Change the weights once, and note it in the run's progress.

    Args:
        run: the training.
        images: (N, 3, H, W) float32, this process's part of the step's images.
        targets: class ids (N, H, W) or (N,) int64, or metres (N, H, W) float32.
        epoch: counted from 0.
        step: of the epoch, counted from 0.

    Returns:
        The learning rate.

    Raises:
        ConfigError: the images are too few or too small for the network.
        TrainingError: the loss is not finite.
    """
    settings, progress = run.settings, run.progress
    lr = _set_rate(run)
    set_progress(run.net, run.share)
    _seed(settings.seed, progress.step, 0)  # of dropout: a resumed run draws the same
    run.optimizer.zero_grad()
    if run.mixing is not None:
        images, targets = run.mixing(images, targets, progress.step)
    loss = _backward(run, images, targets, step)
    if not np.isfinite(loss):
        raise not_finite(run.net, epoch, step, run.out / STATE, "the loss")
    run.strategy.reduce_gradients()
    if settings.clip is not None:
        run.strategy.clip_gradients(settings.clip)
    run.optimizer.step()
    if run.average is not None:
        run.average.follow(decay_at(settings, progress.step))
    progress.step += 1
    progress.loss += loss
    return lr


def _set_rate(run: Run) -> float:
    settings = run.settings
    lr = rate(
        settings.schedule,
        settings.lr,
        run.progress.step,
        steps_per_epoch=run.progress.steps,
        epochs=settings.epochs,
    )
    for group in run.optimizer.param_groups:
        group["lr"] = lr
    return lr


def _seed(*numbers: int) -> None:
    torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))


def _backward(run: Run, images: Tensor, targets: Tensor, step: int) -> float:
    """Add up the gradients of the batch's parts; the loss, of all processes: they must stop together."""
    model, accelerator = run.strategy.model, run.accelerator
    count = run.settings.accumulate
    layout = memory_format(run.settings)
    loss = 0.0
    parts = list(zip(images.chunk(count), targets.chunk(count), strict=True))
    for index, (part, target) in enumerate(parts):
        part = part.to(run.device, memory_format=layout)
        target = target.to(run.device)
        more = index < len(parts) - 1  # gradients are exchanged with the last part only
        with accelerator.no_sync(model) if more else contextlib.nullcontext():
            with run.inputs.looked_at(step) as looked:  # by hooks, which are not compiled
                forward = model if looked else run.forward
                output = training_output(model, part, run.recipe.network.output, forward=forward)
            output = resized(output, target.shape[-2:])
            value = run.loss(output, target)
            if run.teacher is not None:
                value = run.teacher.hard * value + run.teacher.loss(part, output)
            value = value / len(parts)
            accelerator.backward(value)
        loss += all_sum(value.detach()).item() / accelerator.num_processes
    return loss


def training_output(
    model: nn.Module,
    images: Tensor,
    chosen: str | int | None = None,
    *,
    forward: Callable[[Tensor], Any] | None = None,
) -> Tensor:
    """The network's output in training, (N, C, H, W) or (N, C); of several, the one that the recipe chose.

    Args:
        model: the network.
        images: (N, 3, H, W).
        chosen: `output` of the recipe's network.
        forward: what computes it; None for the network itself.

    Raises:
        ConfigError: it is not a tensor, or the images (N, 3, H, W) are too few or too small for the network.
    """
    try:
        output = (forward or model)(images)
    except ConfigError:
        raise
    except ValueError as error:
        if len(images) > 1 or "more than 1 value per channel" not in str(error):
            raise
        raise ConfigError(
            f"{last_norm(model, images)}: BatchNorm cannot learn from one image at a time where maps are of "
            "one pixel, in a float network neither: take a larger training.batch, a smaller "
            "training.accumulate, or larger images (data.augmentation.size)."
        ) from error
    except RuntimeError as error:
        height, width = images.shape[-2:]
        other = isinstance(error, torch.OutOfMemoryError) or "size" not in str(error).lower()
        if other or min(height, width) >= SMALL:
            raise
        raise ConfigError(
            f"data.augmentation.size [{height}, {width}] is too small for the network: "
            f"{str(error).splitlines()[0].rstrip('.')}."
        ) from error
    try:
        return selected(output, chosen)
    except ConfigError as error:
        raise ConfigError(f"in training {error}") from error
