"""The files in the folder of a run."""

from __future__ import annotations

from pathlib import Path

from binarize.files.zoo import locate
from binarize.recipes import TrainingRecipe
from binarize.recipes.stages import PREFIX

STATE = "state.safetensors"
"""The state that a run is resumed from."""

MODEL = "model.safetensors"
"""The network of the last checkpoint: `binarize.load` gives it, `binarize evaluate` takes it."""

BEST = "best.safetensors"
"""The network of the best epoch, where a run keeps it beside that of the last one (`training.keep: both`)."""

LOG = "log.jsonl"
"""The figures of each epoch, one line of JSON each."""

CURVES = "curves.png"
"""Loss and figure on `val` by epoch, drawn at the end."""

CONFUSION = "confusion.png"
"""Which class was taken for which at the last evaluation of `val`; of classification."""


def model_file(path: Path) -> Path:
    """The file of a network: the one in a run's folder, that of `zoo:NAME`, or the path as it is.

    Raises:
        ConfigError: the zoo has no such entry.
    """
    path = locate(path)
    return path / MODEL if path.is_dir() else path


def with_stages_located(recipe: TrainingRecipe, out: Path) -> TrainingRecipe:
    """The recipe of a stage with the folders of the stages that it names, `stage:NAME`, as paths.

    Args:
        recipe: of a run; what it does not name by a stage stays as it is.
        out: folder of that run, beside which those of the other stages are.
    """

    def located(text: str | None) -> str | None:
        named = text is not None and text.startswith(PREFIX)
        return str(out.parent / text.removeprefix(PREFIX)) if named and text else text

    training = recipe.training
    update: dict[str, object] = {"start_from": located(training.start_from)}
    if (learning := training.distillation) is not None:
        update["distillation"] = learning.model_copy(update={"teacher": located(learning.teacher)})
    return recipe.model_copy(update={"training": training.model_copy(update=update)})
