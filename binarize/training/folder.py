"""The files in the folder of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from binarize.errors import ConfigError
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


class Log(NamedTuple):
    """What the log of a run tells.

    Attributes:
        lines: the figures of each epoch; empty without a log that can be read.
        fault: what is missing of it, a sentence; empty if it is whole.
    """

    lines: list[dict[str, Any]]
    fault: str


def read_log(folder: Path) -> Log:
    """The log of a run; of one whose last line was not written to its end, all that is in front of it.

    Args:
        folder: of the run.
    """
    file = folder / LOG
    if not file.is_file():
        return Log([], f"{file}: there is no such log.")
    try:
        texts = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        return Log([], f"{file}: the log cannot be read ({error.strerror or error}).")
    lines: list[dict[str, Any]] = []
    for number, text in enumerate(texts, start=1):
        try:
            lines.append(dict(json.loads(text)))
        except (ValueError, TypeError):
            if number == len(texts):
                return Log(lines, f"{file}: line {number}, the last one, is not whole and was left out.")
            return Log([], f"{file}: line {number} of {len(texts)} is damaged, so the log was left out.")
    return Log(lines, "")


def model_file(path: Path) -> Path:
    """The file of a network: the one in a run's folder, that of `zoo:NAME`, or the path as it is.

    Raises:
        ConfigError: the zoo has no such entry, or the folder is that of a training without a network yet.
    """
    path = locate(path)
    if not path.is_dir():
        return path
    if not (path / MODEL).is_file() and (path / STATE).is_file():
        raise ConfigError(
            f"{path}: the training in this folder is not finished: it holds {STATE}, and no network "
            f"({MODEL}) yet. Continue it: `binarize train RECIPE --out {path} --resume`, with the recipe "
            "that it began with."
        )
    return path / MODEL


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
