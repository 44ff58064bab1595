"""Runs in folders, and entries of the zoo, with the figures that were measured of them before."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from binarize.comparison.collect import kept, read_history
from binarize.errors import BinarizeError
from binarize.files import container, zoo
from binarize.recipes import TrainingRecipe, validate
from binarize.training.best import is_complete
from binarize.training.folder import LOG, MODEL
from binarize.training.metadata import read_recipe
from binarize.training.outcome import checkpoint_in


@dataclass(frozen=True, kw_only=True)
class KnownRun:
    """A trained network, and what is known of it without running it.

    Attributes:
        place: its folder, or `zoo:NAME`.
        recipe: that it followed.
        figures: of the recipe's test split; empty if they were not measured.
        source: where the figures are from, or why there are none.
    """

    place: str
    recipe: TrainingRecipe
    figures: dict[str, Any]
    source: str


def find_runs(folder: Path) -> tuple[list[KnownRun], list[str]]:
    """All runs in a folder and in folders in it, in the order of their names.

    Stages are part of their run, not runs of their own, once all of them are trained.

    Args:
        folder: to search.

    Returns:
        The runs, and a sentence for each that cannot be read.
    """
    found, faults = [], []
    stages: set[Path] = set()
    for run in sorted(log.parent for log in folder.rglob(LOG)):
        if run in stages or not (run / MODEL).is_file() or (run / zoo.METRICS).is_file():
            continue  # entries of the zoo, which `zoo_runs` gives, keep the log of their run too
        try:
            recipe = read_recipe(container.read_metadata(run / MODEL), run / MODEL)
            stages |= {run / name for name in recipe.stages}  # a folder comes before those in it
            found.append(_known(run, recipe))
        except BinarizeError as error:
            faults.append(str(error))
    return found, faults


def zoo_runs() -> Iterator[KnownRun]:
    """The entries of the zoo, with the figures of their files."""
    for name in zoo.names():
        path = zoo.entry(name) / zoo.METRICS
        metrics = json.loads(path.read_text(encoding="utf-8"))
        recipe = validate(metrics["recipe"], str(path))
        yield KnownRun(
            place=f"{zoo.PREFIX}{name}", recipe=recipe, figures=metrics["figures"], source=metrics["split"]
        )


def logged_figures(file: Path, history: Sequence[Mapping[str, Any]]) -> tuple[int, dict[str, Any]] | None:
    """Epoch of the network in a run's file, and its figures on the validation split by the run's log.

    Args:
        file: of the network; one that does not say its epoch holds that of the last one.
        history: the log of its run.

    Returns:
        None if nothing was measured after that epoch.
    """
    if not history:
        return None
    held = checkpoint_in(file)
    epoch = history[-1]["epoch"] if held is None else held.epoch
    line = next((line for line in history if line["epoch"] == epoch and "val" in line), None)
    return None if line is None else (epoch, dict(line["val"]))


def _known(run: Path, recipe: TrainingRecipe) -> KnownRun:
    """A run with its figures on the test split: those kept beside it, or those of its last epoch."""
    data = recipe.data
    figures = kept(run, data.test)
    if figures is not None:
        return KnownRun(place=str(run), recipe=recipe, figures=figures, source=data.test)
    lines = read_history(run)
    last = logged_figures(run / MODEL, lines)
    plain = not data.evaluation.flip and data.evaluation.scales == (1.0,)
    if last is not None and data.val == data.test and plain and is_complete(lines, recipe.training):
        source = f"{data.test}, after epoch {last[0]} of the training"
        return KnownRun(place=str(run), recipe=recipe, figures=last[1], source=source)
    done = f"{len(lines)} of {recipe.training.epochs} epochs"
    why = f"not measured on {data.test} ({done}): binarize compare {shlex.quote(str(run))}"
    return KnownRun(place=str(run), recipe=recipe, figures={}, source=why)
