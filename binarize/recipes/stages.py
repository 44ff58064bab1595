"""A recipe with stages as one recipe for each of them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Any

from pydantic import ValidationError

from binarize.recipes.schema import Stage, Training, TrainingRecipe
from binarize.recipes.settings import merged
from binarize.recipes.source import Place

PREFIX = "stage:"
"""`stage:float` names the network of an earlier stage, where a file of weights is expected."""

_BINARY = ("none", "activations", "all")
_SHARED = ("epochs", "seed")  # of all stages together


def stage_recipes(recipe: TrainingRecipe) -> dict[str, TrainingRecipe]:
    """The recipe of each stage, by its name, in order; of a recipe without stages, of none.

    Args:
        recipe: for which `faults` finds nothing.
    """
    epochs = epochs_of(recipe)
    before: str | None = None
    found: dict[str, TrainingRecipe] = {}
    for name, stage in recipe.stages.items():
        values = _settings(recipe.training, stage, epochs[name], before)
        network = recipe.network
        if before is not None:  # the stage before has trained these weights further
            network = network.model_copy(update={"pretrained": False})
        update: dict[str, Any] = {
            "stages": {},
            "about": f"{recipe.about} (stage {name})".strip(),
            "network": network,
            "method": _method(recipe, stage),
            "training": Training.model_validate(values),
        }
        found[name] = recipe.model_copy(update=update)
        before = name
    return found


def epochs_of(recipe: TrainingRecipe) -> dict[str, int]:
    """How many of the recipe's epochs each stage has, by its share."""
    ends = list(accumulate(stage.share for stage in recipe.stages.values()))
    total = recipe.training.epochs
    places = [0, *(round(total * end / ends[-1]) for end in ends)]
    return {name: b - a for name, (a, b) in zip(recipe.stages, pairwise(places), strict=True)}


def faults(recipe: TrainingRecipe) -> Iterator[tuple[Place, str]]:
    """What is wrong with the stages of a recipe, with the places."""
    if not recipe.stages:
        return
    if recipe.training.activations_first:
        yield ("training", "activations_first"), "is the short form of a stage; leave it out beside stages."
    for name, epochs in epochs_of(recipe).items():
        if epochs < 1:
            total = recipe.training.epochs
            yield ("stages", name, "share"), f"leaves no epoch of training.epochs {total} for this stage."
    before: str | None = None
    reached = 0
    for name, stage in recipe.stages.items():
        place = ("stages", name)
        if stage.binary != "none" and recipe.method is None:
            yield (*place, "binary"), f"is {stage.binary}, and the recipe has no method."
        if (at := _BINARY.index(stage.binary)) < reached:
            yield (*place, "binary"), f"is {stage.binary} behind a stage that is more binary."
        reached = max(reached, at)
        yield from _faults_of_training(recipe, name, stage, before)
        before = name


def _faults_of_training(
    recipe: TrainingRecipe, name: str, stage: Stage, before: str | None
) -> Iterator[tuple[Place, str]]:
    place = ("stages", name, "training")
    for setting in _SHARED:
        if setting in stage.training:
            yield (*place, setting), f"is of all stages: set training.{setting}, and share for a stage."
    values = _settings(recipe.training, stage, 1, before)
    try:
        training = Training.model_validate(values)
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            message = fault["msg"].removeprefix("Value error, ")
            if fault["type"] == "extra_forbidden":
                message = (
                    f"no such setting of training; expected one of {', '.join(sorted(Training.model_fields))}"
                )
            yield (*place, *fault["loc"]), f"{message[0].lower()}{message[1:]}."
        return
    earlier = list(recipe.stages)[: list(recipe.stages).index(name)]
    given = {"start_from": training.start_from}
    if training.distillation is not None:
        given["distillation.teacher"] = training.distillation.teacher
    for setting, text in given.items():
        if text is not None and text.startswith(PREFIX) and text.removeprefix(PREFIX) not in earlier:
            known = f"expected one of {', '.join(earlier)}" if earlier else "there is none before this one"
            yield (*place, *setting.split(".")), f"{text!r}: no stage of this name comes before; {known}."


def _settings(common: Training, stage: Stage, epochs: int, before: str | None) -> dict[str, Any]:
    """The values of a stage's `training`."""
    values = common.model_dump(mode="json")
    if before is not None:
        values["start_from"] = f"{PREFIX}{before}"
    return {**merged(values, stage.training), "epochs": epochs}


def _method(recipe: TrainingRecipe, stage: Stage) -> Any:
    if stage.binary == "none" or recipe.method is None:
        return None
    weights = "float" if stage.binary == "activations" else recipe.method.weights
    return recipe.method.model_copy(update={"weights": weights})
