"""The training loop, top to bottom: one for all recipes, on one device or many."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from binarize.data.samples import SampleDataset
from binarize.errors import TrainingError
from binarize.layers import set_progress
from binarize.recipes import TrainingRecipe
from binarize.training.batches import read_batches
from binarize.training.checkpoint import save
from binarize.training.confusion import draw_confusion
from binarize.training.constant_loss import constant_loss, warn_of_loss
from binarize.training.curves import draw_curves
from binarize.training.evaluate import evaluate
from binarize.training.figures import LARGE
from binarize.training.folder import CONFUSION, CURVES, LOG, MODEL, STATE
from binarize.training.header import header
from binarize.training.health import first_not_finite, not_finite
from binarize.training.interrupt import interruptible
from binarize.training.process_group import destroy_group_at_exit
from binarize.training.progress import Event
from binarize.training.recalibrate import recalibrate
from binarize.training.run import Run
from binarize.training.setup import set_up
from binarize.training.stages import float_weights
from binarize.training.step import train_step
from binarize.training.tensorboard_log import event_log

__all__ = ["CURVES", "LOG", "MODEL", "STATE", "Event", "StoppedError", "train"]


class StoppedError(TrainingError):
    """A training that was interrupted after it was saved."""


def train(
    recipe: TrainingRecipe,
    out: Path,
    *,
    root: Path | None = None,
    resume: bool = False,
    report: Callable[[Event], None] | None = None,
    tell: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    """Train by a recipe; the run's folder holds state, model and log.

    Args:
        recipe: what to train, on what, and how.
        out: folder of the run; made if it is not there.
        root: folder of the data set, in place of the recipe's.
        resume: continue with what is in `out`; a run that is complete is left as it is.
        report: called after each step and each epoch, in the main process.
        tell: called in the main process with what was loaded at the start, and what the run is.

    Returns:
        The figures of every epoch.

    Raises:
        ConfigError: a recipe that cannot be followed, a folder that holds another run or cannot be written,
            or accelerate's environment asks for what is not offered (see `environment.requested_sharding`).
        DataError: data that is missing or wrong, or has nothing to learn from.
        StoppedError: Ctrl-C; all was saved.
        TrainingError: numbers that are not finite; the last checkpoint is kept.
    """
    run = set_up(recipe, out, root=root, resume=resume, report=report, tell=tell)
    settings, progress, epochs = run.settings, run.progress, recipe.training.epochs
    done = progress.step // progress.steps
    if tell is not None and run.is_main and done < epochs:
        for line in header(run, resumed=progress.step > 0):
            tell(line)
    logged = event_log(out, done, on=run.is_main and done < epochs)
    with interruptible(run.accelerator) as stopped, logged as log_events:
        for epoch in range(done, epochs):
            began, last = time.perf_counter(), epoch + 1 == epochs
            figures = _train_epoch(run, epoch, stopped)
            if last and settings.calibrate:
                recalibrate(run)
            if run.val is not None and (last or (epoch + 1) % settings.evaluate_every == 0):
                figures["val"] = _evaluate(run, run.val)
            figures["seconds"] = time.perf_counter() - began
            progress.history.append(figures)
            progress.loss = 0.0
            if last or (epoch + 1) % settings.save_every == 0:
                save(run)
            if run.is_main:
                log_events(figures)
            run.show(epoch, progress.steps, figures["loss"], figures["lr"], figures)
            if stopped() and not last:
                _stop(run, f"after epoch {epoch + 1} of {epochs}")
    if done < epochs:
        warn_of_loss(run)
    if run.is_main and progress.history:
        draw_curves(progress.history, out / CURVES)
    destroy_group_at_exit()
    return progress.history


def _train_epoch(run: Run, epoch: int, stopped: Callable[[], bool]) -> dict[str, Any]:
    """All steps of an epoch that are not done yet; its figures, but for those of the validation split."""
    progress, steps = run.progress, run.progress.steps
    start, began = progress.step % steps, time.perf_counter()
    run.batches.start(epoch, start)
    run.latents.restart()
    run.inputs.restart()
    run.strategy.model.train()
    lr = 0.0
    first_stage = epoch < run.settings.activations_first * run.settings.epochs
    with float_weights(run.net) if first_stage else contextlib.nullcontext():
        for step, (images, targets) in enumerate(read_batches(run.loader), start=start):
            if run.tally is not None and not start:
                run.tally.add(targets)
            lr = train_step(run, images, targets, epoch=epoch, step=step)
            run.show(epoch, step + 1, progress.loss / (step + 1), lr, {})
            if stopped() and step + 1 < steps:
                _stop(run, f"in epoch {epoch + 1} after {step + 1} of {steps} steps")
    set_progress(run.net, run.share)  # what is evaluated and saved is of now, at the end of the end
    if problem := first_not_finite(run.net):
        raise not_finite(run.net, epoch, steps - 1, run.out / STATE, problem)
    if run.tally is not None and not start:
        run.constant_loss = constant_loss(run.loss, run.tally.check(run.device))
        run.tally = None  # one whole epoch is enough
    figures: dict[str, Any] = {
        "epoch": epoch + 1,
        "loss": progress.loss / steps,
        "lr": lr,
        "images_per_second": (steps - start) * run.settings.batch / (time.perf_counter() - began),
        **({} if start else run.latents.figures()),
    }
    if not start and (constant := run.inputs.constant()):
        figures["constant_inputs"] = constant
    return figures


def _evaluate(run: Run, val: SampleDataset) -> dict[str, Any]:
    """The figures on the validation split, of the weights that would be kept."""
    accelerator, data = run.accelerator, run.recipe.data
    with run.strategy.whole_network(run.averaged, run.device) as net, accelerator.autocast():
        figures = evaluate(
            net,
            val,
            output=run.recipe.network.output,
            device=run.device,
            batch=data.evaluation.batch,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
            where=f"{data.name} {data.val}",
        )
    if run.is_main and "confusion" in figures:
        draw_confusion(figures["confusion"], run.out / CONFUSION, list(figures["class_accuracy"]))
    return {name: value for name, value in figures.items() if name not in LARGE}


def _stop(run: Run, when: str) -> NoReturn:
    save(run)
    destroy_group_at_exit()
    raise StoppedError(f"stopped {when}; all is saved in {run.out}. Go on with --resume.")
