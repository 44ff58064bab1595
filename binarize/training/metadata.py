"""Text entries in the file of a trained network: its recipe, and what its outputs mean."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from binarize import preprocessing
from binarize.data.dataset import Truth, truth_as_json, truth_from_json
from binarize.data.transforms import MEAN, STD
from binarize.errors import FormatError
from binarize.preprocessing import Preprocessing
from binarize.recipes import TrainingRecipe, validate

_RECIPE = "binarize.recipe"
_TRUTH = preprocessing.TRUTH_ENTRY
_CHECKPOINT = "binarize.checkpoint"

STATE_ENTRY = "binarize.training"
"""The entry of a state file, which has none of the others."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Which network of a run a file holds.

    Attributes:
        kept: `best` on the validation split, or `last`.
        epoch: whole epochs that it was trained.
        epochs: of the recipe.
        figure: name of the main figure.
        value: of it on the validation split; None if it was not measured after that epoch.
        changes: settings that were changed in the middle of the run (`Progress.changes`).
    """

    kept: str
    epoch: int
    epochs: int
    figure: str | None = None
    value: float | None = None
    changes: tuple[dict[str, Any], ...] = ()

    def __str__(self) -> str:
        """In words: `best epoch: 7 of 40`."""
        return f"{self.kept} epoch: {self.epoch} of {self.epochs}"


def file_metadata(recipe: TrainingRecipe, truth: Truth) -> dict[str, str]:
    """The text entries for the header of a network's file."""
    return {
        _RECIPE: json.dumps(recipe.model_dump(mode="json")),
        _TRUTH: truth_as_json(truth),
        preprocessing.ENTRY: preprocessing_of(recipe, truth).dumps(),
    }


def checkpoint_metadata(
    recipe: TrainingRecipe, truth: Truth, images: Preprocessing | None, checkpoint: Checkpoint
) -> dict[str, str]:
    """The text entries for a network's file in the folder of its run.

    Args:
        recipe: of the run.
        truth: what its outputs mean.
        images: what images go through before it, if that is known.
        checkpoint: which network of the run it is.
    """
    entries = file_metadata(recipe, truth)
    entries[_CHECKPOINT] = json.dumps(dataclasses.asdict(checkpoint))
    del entries[preprocessing.ENTRY]
    return entries if images is None else {**entries, preprocessing.ENTRY: images.dumps()}


def read_checkpoint(metadata: Mapping[str, str]) -> Checkpoint | None:
    """Which network of a run a file holds, by its header's entries; None if they do not say."""
    try:
        fields = json.loads(metadata[_CHECKPOINT])
        return Checkpoint(**{**fields, "changes": tuple(fields["changes"])})
    except (KeyError, ValueError, TypeError):
        return None


def with_recipe(metadata: Mapping[str, str], recipe: TrainingRecipe, before: int) -> dict[str, str]:
    """The text entries of the file of a stage's network, with the recipe of all stages in them.

    Args:
        metadata: the entries.
        recipe: of all stages.
        before: epochs of the stages in front of this one.
    """
    entries = {**metadata, _RECIPE: json.dumps(recipe.model_dump(mode="json"))}
    if (found := read_checkpoint(metadata)) is not None:
        whole = dataclasses.replace(found, epoch=before + found.epoch, epochs=before + found.epochs)
        entries[_CHECKPOINT] = json.dumps(dataclasses.asdict(whole))
    return entries


def preprocessing_of(recipe: TrainingRecipe, truth: Truth) -> Preprocessing:
    """What images go through before a network that follows the recipe, outside of its benchmark.

    A crop is a part of it for classification only: of maps it would lose a part.
    """
    seen = recipe.data.evaluation
    return Preprocessing(
        mean=MEAN,
        std=STD,
        size=recipe.data.augmentation.size,
        short_side=seen.short_side,
        resize=seen.resize,
        crop=seen.crop if truth.task == "classification" else None,
    )


def has_recipe(metadata: Mapping[str, str]) -> bool:
    """Whether a training wrote the file whose header's entries these are."""
    return _RECIPE in metadata


def read_recipe(metadata: Mapping[str, str], where: Path) -> TrainingRecipe:
    """The recipe in a header's entries; `where` names the file in messages.

    Raises:
        ConfigError: a recipe that this version does not know.
        FormatError: there is none, or it is corrupted.
    """
    if _RECIPE not in metadata:
        if STATE_ENTRY in metadata:
            raise FormatError(
                f"{where} is the state that a training continues from; its network is in the file beside it: "
                "give the folder of the run."
            )
        raise FormatError(
            f"{where}: its header holds no recipe: it was not written by `binarize train`, so it is "
            "unknown how images are prepared and what its outputs mean. binarize.load gives the network in "
            "Python."
        )
    try:
        values = json.loads(metadata[_RECIPE])
    except ValueError as error:
        raise FormatError(f"{where} is corrupted: its recipe is not JSON.") from error
    return validate(values, str(where))


def read_truth(metadata: Mapping[str, str], where: Path) -> Truth:
    """What the outputs mean, by a header's entries.

    Raises:
        FormatError: it is not there, or corrupted.
    """
    try:
        return truth_from_json(metadata[_TRUTH])
    except (KeyError, ValueError, TypeError) as error:
        raise FormatError(f"{where} is corrupted: its {_TRUTH!r} entry does not describe a truth.") from error


def meaning(metadata: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """What the output of a trained network is called (`logits`, `depth`), and the entry that explains it.

    Both are empty for a network that no training wrote.
    """
    text = metadata.get(_TRUTH)
    if text is None:
        return "", {}
    return "depth" if json.loads(text)["task"] == "depth" else "logits", {_TRUTH: text}


def chosen_output(metadata: Mapping[str, str]) -> str | int | None:
    """Which of a network's outputs counts, by a header's entries; None if they do not say.

    The rest of the recipe may be one that this version does not know.
    """
    try:
        chosen = json.loads(metadata[_RECIPE])["network"]["output"]
    except (KeyError, ValueError, TypeError):
        return None
    return chosen if isinstance(chosen, (str, int)) else None


def trained_size(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    """(H, W) of the images that a network was trained on, by a header's entries; None if it is not in them.

    The rest of the recipe may be one that this version does not know.
    """
    try:
        height, width = json.loads(metadata[_RECIPE])["data"]["augmentation"]["size"]
    except (KeyError, ValueError, TypeError):
        return None
    whole = all(type(side) is int and side > 0 for side in (height, width))
    return (height, width) if whole else None
