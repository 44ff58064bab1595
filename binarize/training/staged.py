"""Training by any recipe: in one go, or in stages from float to binary, each from the last one's weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState

from binarize import files
from binarize.errors import ConfigError, is_first_process
from binarize.files import container
from binarize.recipes import TrainingRecipe
from binarize.recipes.stages import stage_recipes
from binarize.training import loop
from binarize.training.best import is_complete
from binarize.training.curves import draw_curves
from binarize.training.folder import BEST, CURVES, LOG, MODEL, STATE
from binarize.training.metadata import with_recipe
from binarize.training.progress import Event

_SAYS = {
    "none": "the float network",
    "activations": "binary activations, float weights",
    "all": "the binary network",
}


def train(
    recipe: TrainingRecipe,
    out: Path,
    *,
    root: Path | None = None,
    resume: bool = False,
    report: Callable[[Event], None] | None = None,
    tell: Callable[[str], None] | None = None,
    begin: Callable[[str, int], None] | None = None,
    callbacks: Sequence[Any] = (),
) -> list[dict[str, Any]]:
    """Train by a recipe, with or without stages.

    Each stage is a run in a folder of its own, `out/STAGE`. After the last one, `out` holds its network, the
    log of all stages and their curves. `resume` continues in the stage that was interrupted.

    Args:
        recipe: what to train, on what, and how.
        out: folder of the run; made if it is not there.
        root: folder of the data set, in place of the recipe's.
        resume: continue with what is in `out`; a run that is complete is left as it is.
        report: called after each step and each epoch, in the main process; epochs are counted in each stage.
        tell: called in the main process with what was loaded at the start, and what run and stages are.
        begin: called with name and epochs of each stage before it begins.
        callbacks: see `callbacks.Callback`; they are called in each stage, and one that stops a stage stops
            the whole training.

    Returns:
        The figures of every epoch. With several stages each has its `stage`, and the epochs of all stages are
        counted through.

    Raises:
        ConfigError: a recipe that cannot be followed, a folder that holds another run or cannot be written.
        DataError: data that is missing or wrong, or has nothing to learn from.
        StoppedError: Ctrl-C; all was saved.
        TrainingError: numbers that are not finite; the last checkpoint is kept.
    """
    stages = stage_recipes(recipe)
    _check_folder(out, list(stages))
    if not stages:
        return loop.train(
            recipe, out, root=root, resume=resume, report=report, tell=tell, callbacks=callbacks
        )
    history: list[dict[str, Any]] = []
    heard = tell if tell is not None and is_first_process() else None
    for number, (name, stage) in enumerate(stages.items(), start=1):
        if heard is not None:
            heard(f"stage    {name} ({number} of {len(stages)}): {_SAYS[recipe.stages[name].binary]}")
        if begin is not None:
            begin(name, stage.training.epochs)
        # a stage of which nothing is there yet begins, also where the whole is resumed
        figures = loop.train(
            stage, out / name, root=root, resume=resume, report=report, tell=tell, callbacks=callbacks
        )
        before = len(history)
        history += [{**line, "epoch": before + line["epoch"], "stage": name} for line in figures]
        if not is_complete(figures, stage.training):  # a callback stopped it
            return history
    if PartialState().is_main_process:
        _write_whole(recipe, out, name, history, before)
    PartialState().wait_for_everyone()
    return history


def _check_folder(out: Path, stages: list[str]) -> None:
    """Refuse the folder of a run in one go for one in stages, and the other way round."""
    if stages and (out / STATE).is_file():
        raise ConfigError(f"{out} holds a run without stages; name another folder.")
    if not stages and not (out / STATE).is_file() and (out / MODEL).is_file() and any(out.glob(f"*/{STATE}")):
        raise ConfigError(f"{out} holds a run in stages, and this recipe has none; name another folder.")


def _write_whole(
    recipe: TrainingRecipe, out: Path, last: str, history: list[dict[str, Any]], before: int
) -> None:
    """Put the last stage's networks, by the whole recipe, and the log of all stages into the run's folder.

    Args:
        recipe: of all stages.
        out: folder of the run.
        last: name of the last stage.
        history: of all stages.
        before: epochs of the stages in front of the last one.
    """
    files.write_bytes(out / LOG, "".join(json.dumps(line) + "\n" for line in history).encode())
    draw_curves(history, out / CURVES)
    for name in (BEST, MODEL):
        if (out / last / name).is_file():
            read = container.read(out / last / name)
            container.write(out / name, read.tensors, with_recipe(read.metadata, recipe, before))
