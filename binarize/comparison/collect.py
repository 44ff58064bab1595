"""From the folder of a run to its row: figures on the test split, costs, training time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from binarize import accounting, files
from binarize.accounting.summarize import Convention
from binarize.errors import ConfigError, near_paths, warn
from binarize.recipes import TrainingRecipe
from binarize.training import saved
from binarize.training.best import is_complete
from binarize.training.build import dataset
from binarize.training.environment import device as chosen_device
from binarize.training.evaluation import evaluate
from binarize.training.folder import MODEL, read_log

TEST = "test.json"
"""The figures on the test split, kept in the run's folder for as long as its network stays the same."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a run.

    Attributes:
        path: folder of the run.
        recipe: of the run.
        split: on which the figures were measured.
        figures: as `binarize.training.evaluate` gives them.
        history: its log, one entry per epoch.
        costs: by convention, the totals of `Summary.as_dict`.
    """

    path: Path
    recipe: TrainingRecipe
    split: str
    figures: dict[str, Any]
    history: list[dict[str, Any]]
    costs: dict[str, dict[str, Any]]

    @property
    def seconds(self) -> float:
        """Seconds of training, with the evaluations of the validation split."""
        return sum(line["seconds"] for line in self.history)

    @property
    def complete(self) -> bool:
        """Whether all epochs of the recipe were trained, or the run ended early by its patience."""
        return is_complete(self.history, self.recipe.training)


def collect(
    run: Path,
    *,
    root: Path | None = None,
    split: str | None = None,
    count: bool = True,
    report: Callable[[int, int], None] | None = None,
    model: nn.Module | None = None,
) -> Result:
    """Evaluate a run, unless that was done before, and count its network.

    Args:
        run: folder that `binarize train` wrote.
        root: folder of the data set, in place of the recipe's.
        split: to evaluate on; by default the recipe's `test`.
        count: whether to count its network; a packed one cannot be counted as the paper does.
        report: called with the number of images done and of all.
        model: the float network, for a run of code that is gone or another account's; others do without it.

    Raises:
        ConfigError: no run there.
        DataError: data that is missing or wrong.
        FormatError: files of the run that are damaged.
    """
    if not run.is_dir():
        near = near_paths(run)
        raise ConfigError(f"{run}: no such folder; expected one that `binarize train` wrote.{near}")
    recipe, network = saved.load(run, model if model is not None and saved.is_custom(run) else None)
    part = split or recipe.data.test
    costs = _costs(run, network, recipe) if count else {}
    history = read_history(run)
    figures = kept(run, part) if root is None else None  # kept figures are of the recipe's own data
    if figures is None:
        data = dataset(recipe, part, root=root)
        saved.check_classes(run, data.truth)
        device = chosen_device()
        figures = evaluate(
            network.to(device),
            data,
            output=recipe.network.output,
            device=device,
            batch=recipe.data.evaluation.batch,
            flip=recipe.data.evaluation.flip,
            scales=recipe.data.evaluation.scales,
            report=(lambda done: report(done, len(data))) if report is not None else None,
            where=f"{recipe.data.name} {part}",
        )
        if root is None:
            keep(run, part, figures)
    return Result(path=run, recipe=recipe, split=part, figures=figures, history=history, costs=costs)


def _costs(run: Path, model: nn.Module, recipe: TrainingRecipe) -> dict[str, dict[str, Any]]:
    file = run / MODEL
    return cost_totals(model, recipe, files.deployed_size(file, model) or file.stat().st_size)


def cost_totals(
    model: nn.Module, recipe: TrainingRecipe, size: int, *, packed: bool = False
) -> dict[str, dict[str, Any]]:
    """By convention, totals at the size that training sees, which is the same for all rows.

    Args:
        model: of a run.
        recipe: of the run.
        size: bytes of the file that `binarize deploy` writes; a float network's own file is what it needs.
        packed: the model is a packed one, which cannot be counted as the paper does.
    """
    conventions: tuple[Convention, ...] = ("honest",) if packed else ("honest", "paper")
    counted = accounting.summaries(model, (3, *recipe.data.augmentation.size), conventions)
    return {
        name: {k: v for k, v in total.of_file(size).as_dict().items() if k != "layers"}
        for name, total in counted.items()
    }


def read_history(run: Path) -> list[dict[str, Any]]:
    """The log of a run, one entry per epoch; it warns where the last line is not whole.

    Raises:
        ConfigError: there is none, or it is damaged in the middle.
    """
    log = read_log(run)
    if log.fault and not log.lines:
        raise ConfigError(f"{log.fault} Expected one line of JSON for each epoch of the training.")
    if log.fault:
        warn(log.fault)
    return log.lines


def kept(run: Path, split: str) -> dict[str, Any] | None:
    """The figures of a run's network on a split, measured before; None if there are none."""
    try:
        found = json.loads((run / TEST).read_text(encoding="utf-8"))
        same = found["split"] == split and found["version"] == version()
        if same and found["model"] == _digest(run / MODEL):
            return dict(found["figures"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no figures, or of another network: they are measured again
    return None


def keep(run: Path, split: str, figures: dict[str, Any]) -> None:
    """Write the figures of a run's network beside it, for `kept`."""
    found = {"split": split, "model": _digest(run / MODEL), "version": version(), "figures": figures}
    files.write_bytes(run / TEST, json.dumps(found, indent=2).encode())


def version() -> str:
    """The version of the toolkit: another one may measure figures differently."""
    import binarize

    return binarize.__version__


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
