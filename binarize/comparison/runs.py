"""Runs in folders, and entries of the zoo, with the figures that were measured of them before."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from binarize.comparison.collect import kept, read_history
from binarize.errors import BinarizeError
from binarize.files import container, zoo
from binarize.recipes import TrainingRecipe, validate
from binarize.training.folder import LOG, MODEL
from binarize.training.metadata import read_recipe


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

    Args:
        folder: to search.

    Returns:
        The runs, and a sentence for each that cannot be read.
    """
    found, faults = [], []
    for log in sorted(folder.rglob(LOG)):
        run = log.parent
        if not (run / MODEL).is_file():
            continue
        try:
            recipe = read_recipe(container.read_metadata(run / MODEL), run / MODEL)
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


def seeds(runs: Sequence[KnownRun]) -> list[int]:
    """Of the runs, in their order."""
    return [run.recipe.training.seed for run in runs]


def _known(run: Path, recipe: TrainingRecipe) -> KnownRun:
    """A run with its figures on the test split: those kept beside it, or those of its last epoch."""
    data = recipe.data
    figures = kept(run, data.test)
    if figures is not None:
        return KnownRun(place=str(run), recipe=recipe, figures=figures, source=data.test)
    lines = read_history(run)
    last = next((line["val"] for line in reversed(lines) if "val" in line), None)
    plain = not data.evaluation.flip and data.evaluation.scales == (1.0,)
    if last is not None and data.val == data.test and plain and len(lines) == recipe.training.epochs:
        return KnownRun(
            place=str(run), recipe=recipe, figures=last, source=f"{data.test}, at the end of training"
        )
    done = f"{len(lines)} of {recipe.training.epochs} epochs"
    why = f"not measured on {data.test} ({done}): binarize compare {run}"
    return KnownRun(place=str(run), recipe=recipe, figures={}, source=why)
