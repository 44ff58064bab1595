"""Writes a checkpoint into the run's folder: log, networks and state."""

from __future__ import annotations

import json

import torch

from binarize import files
from binarize.training.best import best_of, is_better, looks
from binarize.training.folder import BEST, LOG, MODEL, STATE
from binarize.training.metadata import Checkpoint, checkpoint_metadata
from binarize.training.run import Run
from binarize.training.state import collect_state, save_state


def save(run: Run) -> None:
    """Write the present state of a run. All processes have to call this; the main one writes.

    Raises:
        ConfigError: a file cannot be written, or the disk is full.
    """
    out, main = run.out, run.is_main
    state = collect_state(run.net, run.optimizer, run.averaged, wanted=main)
    if main:
        lines = "".join(json.dumps(line) + "\n" for line in run.progress.history)
        files.write_bytes(out / LOG, lines.encode())
    if run.settings.keep != "best" or run.progress.best is None:  # else the best network stays
        _write_network(run, MODEL, "last")
    if main:
        # Last: what is newer than the state is written again when the run is resumed from it.
        save_state(out / STATE, run.recipe.model_dump(mode="json"), run.progress, state)
    run.accelerator.wait_for_everyone()  # a process that ends now would take down the one that writes


def save_best(run: Run) -> None:
    """Write the network if the epoch just evaluated is the best one. All processes have to call this.

    Raises:
        ConfigError: a file cannot be written, or the disk is full.
    """
    epoch, name, value = looks(run.progress.history)[-1]
    best = run.progress.best
    if run.settings.keep == "last" or not is_better(name, value, None if best is None else best["value"]):
        return
    run.progress.best = {"epoch": epoch, "figure": name, "value": value}
    _write_network(run, BEST if run.settings.keep == "both" else MODEL, "best")


def _write_network(run: Run, name: str, kept: str) -> None:
    with run.strategy.whole_network(run.averaged, torch.device("cpu"), wanted=run.is_main) as net:
        if not run.is_main:
            return
        progress = run.progress
        between = progress.step % progress.steps  # in the middle of an epoch nothing was measured
        lines = [] if between else progress.history[progress.done - 1 : progress.done]
        found = best_of(lines) if progress.done else None
        checkpoint = Checkpoint(
            kept=kept,
            epoch=progress.done,
            epochs=run.settings.epochs,
            figure=None if found is None else found[1],
            value=None if found is None else found[2],
            changes=tuple(progress.changes),
        )
        source = getattr(net, "binarize_spec", None)
        entries = checkpoint_metadata(run.recipe, run.data.truth, run.images, checkpoint)
        files.save(net, run.out / name, source=source, entries=entries)
