"""The training loop, top to bottom: one for all recipes, on one device or many."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from binarize.errors import StoppedError
from binarize.layers import set_progress
from binarize.recipes import TrainingRecipe
from binarize.recipes.schema import Training
from binarize.training import trackers
from binarize.training.batches import read_batches
from binarize.training.best import is_complete
from binarize.training.callbacks import End, Start
from binarize.training.checkpoint import save, save_best
from binarize.training.confusion import draw_confusion
from binarize.training.constant_loss import constant_loss, warn_of_loss
from binarize.training.curves import draw_curves
from binarize.training.evaluation import evaluate
from binarize.training.figures import LARGE
from binarize.training.folder import BEST, CONFUSION, CURVES, LOG, MODEL, STATE
from binarize.training.header import header
from binarize.training.health import first_not_finite, not_finite
from binarize.training.interrupt import Stop, interruptible
from binarize.training.process_group import destroy_group_at_exit
from binarize.training.progress import Event
from binarize.training.recalibrate import recalibrate
from binarize.training.run import Run
from binarize.training.setup import set_up
from binarize.training.stages import float_weights
from binarize.training.step import train_step

__all__ = ["BEST", "CURVES", "LOG", "MODEL", "STATE", "Event", "StoppedError", "train"]


class _EndedError(Exception):
    """A callback ended the run; all was saved."""


def train(
    recipe: TrainingRecipe,
    out: Path,
    *,
    root: Path | None = None,
    resume: bool = False,
    report: Callable[[Event], None] | None = None,
    tell: Callable[[str], None] | None = None,
    callbacks: Sequence[Any] = (),
) -> list[dict[str, Any]]:
    """Train by a recipe; the run's folder holds state, networks and log.

    Args:
        recipe: what to train, on what, and how.
        out: folder of the run; made if it is not there.
        root: folder of the data set, in place of the recipe's.
        resume: continue with what is in `out`; a run that is complete is left as it is.
        report: called after each step and each epoch, in the main process.
        tell: called in the main process with what was loaded at the start, and what the run is.
        callbacks: see `callbacks.Callback`.

    Returns:
        The figures of every epoch.

    Raises:
        ConfigError: a recipe that cannot be followed, a folder that holds another run or cannot be written,
            or accelerate's environment asks for what is not offered (see `environment.requested_sharding`).
        DataError: data that is missing or wrong, or has nothing to learn from.
        StoppedError: Ctrl-C; all was saved.
        TrainingError: numbers that are not finite; the last checkpoint is kept.
    """
    run = set_up(recipe, out, root=root, resume=resume, report=report, tell=tell, callbacks=callbacks)
    return follow(run, tell)


def follow(run: Run, tell: Callable[[str], None] | None = None) -> list[dict[str, Any]]:
    """All epochs of a run that are not done yet; the figures of every epoch. Raises as `train`."""
    settings, progress, main = run.settings, run.progress, run.is_main
    begins = not is_complete(progress.history, settings)
    if tell is not None and main and begins:
        for line in header(run, resumed=progress.step > 0):
            tell(line)
    names = trackers.chosen(settings.trackers) if main else []
    recipe = run.recipe.model_dump(mode="json")
    logged = trackers.tracked(names, run.out, progress.done, recipe)
    with interruptible(run.accelerator, run.callbacks) as stopped, logged as track:
        try:
            if begins:
                run.callbacks.call("on_start", _start(run, recipe))
                _stop_if_asked(run, stopped(), "before the first step")
            while not is_complete(progress.history, settings):
                _epoch(run, stopped, track)
        except _EndedError:
            pass
    if begins and is_complete(progress.history, settings):
        warn_of_loss(run)
    if main and progress.history:
        draw_curves(progress.history, run.out / CURVES)
    destroy_group_at_exit()
    reason = run.callbacks.reason or ""
    if tell is not None and main and reason:
        tell(f"stopped: {reason}; all is saved in {run.out}. Continue with --resume.")
    run.callbacks.call("on_end", End(out=run.out, history=progress.history, stopped=reason))
    if run.callbacks.failure is not None:
        raise run.callbacks.failure
    return progress.history


def _start(run: Run, recipe: dict[str, Any]) -> Start:
    return Start(
        out=run.out,
        recipe=recipe,
        epochs=run.settings.epochs,
        steps=run.progress.steps,
        step=run.progress.step,
        images=len(run.data),
        device=str(run.device),
    )


def _epoch(run: Run, stopped: Callable[[], Stop], track: Callable[[Mapping[str, Any]], None]) -> None:
    """One epoch, its evaluation, its checkpoint, and what is reported of it."""
    settings, progress = run.settings, run.progress
    epoch = progress.done
    began, last = time.perf_counter(), epoch + 1 == settings.epochs
    figures = _train_epoch(run, epoch, stopped)
    looked = run.val is not None and (last or (epoch + 1) % settings.evaluate_every == 0)
    if settings.calibrate and (last or (looked and _may_stay(settings))):
        recalibrate(run)
    if looked:
        figures |= _evaluations(run)
    figures["seconds"] = time.perf_counter() - began
    progress.history.append(figures)
    progress.loss = 0.0
    if looked:
        save_best(run)
        run.callbacks.call("on_evaluate", epoch + 1, {k: v for k, v in figures.items() if k in _PARTS})
    ends = is_complete(progress.history, settings)
    if ends or (epoch + 1) % settings.save_every == 0:
        save(run)
    if run.is_main:
        track(figures)
    run.show(epoch, progress.steps, figures["loss"], figures["lr"], figures)
    run.callbacks.call("on_epoch", figures)
    asked = stopped()
    if asked is Stop.FAILURE or not ends:
        _stop_if_asked(run, asked, f"after epoch {epoch + 1} of {settings.epochs}")


def _may_stay(settings: Training) -> bool:
    """Whether the network of an epoch before the last one may be kept: as the best, or at an early end."""
    return settings.keep != "last" or settings.patience is not None


def _train_epoch(run: Run, epoch: int, stopped: Callable[[], Stop]) -> dict[str, Any]:
    """All steps of an epoch that are not done yet; its figures, but for those of the validation split."""
    progress, steps = run.progress, run.progress.steps
    start, began = progress.step % steps, time.perf_counter()
    run.batches.start(epoch, start)
    run.latents.restart()
    run.inputs.restart()
    run.strategy.model.train()
    lr = 0.0
    first_stage = epoch < run.settings.activations_first * progress.planned
    with float_weights(run.net) if first_stage else contextlib.nullcontext():
        for step, (images, targets) in enumerate(read_batches(run.loader), start=start):
            if run.tally is not None and not start:
                run.tally.add(targets)
            lr = train_step(run, images, targets, epoch=epoch, step=step)
            mean = progress.loss / (step + 1)
            run.show(epoch, step + 1, mean, lr, {})
            run.callbacks.call("on_step", run.event(epoch, step + 1, mean, lr, {}))
            if (asked := stopped()) and step + 1 < steps:
                _stop_if_asked(run, asked, f"in epoch {epoch + 1} after {step + 1} of {steps} steps")
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


_PARTS = ("val", "val_without_ema")
"""Names, in the figures of an epoch, of those on the validation split: of the network that is kept, and of
its plain weights where those that are kept are averages."""


def _evaluations(run: Run) -> dict[str, Any]:
    """The figures on the validation split: of the weights that are kept, and, with EMA, of the plain ones."""
    if run.averaged is None:
        return {"val": _evaluate(run, None)}
    plain = _evaluate(run, None)
    return {"val": _evaluate(run, run.averaged), "val_without_ema": plain}  # pictures are of what is kept


def _evaluate(run: Run, average: dict[str, Tensor] | None) -> dict[str, Any]:
    accelerator, data = run.accelerator, run.recipe.data
    if run.val is None:
        raise ValueError("no validation split")
    with run.strategy.whole_network(average, run.device) as net, accelerator.autocast():
        figures = evaluate(
            net,
            run.val,
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


def _stop_if_asked(run: Run, asked: Stop, when: str) -> None:
    """Save, and end the run, if Ctrl-C or a callback asked for it; all processes have to call this.

    Raises:
        StoppedError: for Ctrl-C, or, in the other processes, for a failure of a callback.
        _EndedError: for a callback.
        Exception: that of a callback.
    """
    if asked is Stop.NO:
        return
    save(run)
    if asked is Stop.CALLBACK:
        raise _EndedError
    destroy_group_at_exit()
    if run.callbacks.failure is not None:
        raise run.callbacks.failure
    raise StoppedError(f"stopped {when}; all is saved in {run.out}. Continue with --resume.")
