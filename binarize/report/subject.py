"""What a report is about: a trained network, and what is known of it without running it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from binarize import files
from binarize.comparison.collect import TEST, cost_totals, keep, kept
from binarize.comparison.runs import logged_figures
from binarize.data.dataset import Truth
from binarize.data.samples import SampleDataset
from binarize.errors import BinarizeError, DataError
from binarize.files import zoo
from binarize.recipes import TrainingRecipe
from binarize.runtime import deployed_layers
from binarize.training import saved
from binarize.training.build import dataset
from binarize.training.environment import device as chosen_device
from binarize.training.evaluation import evaluate
from binarize.training.folder import BEST, LOG, MODEL, STATE, model_file, read_log


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A trained network.

    Attributes:
        name: how the user named it.
        file: of the network.
        recipe: that it was trained by.
        model: the network, in evaluation mode.
        truth: what its outputs mean.
        history: figures by epoch; empty without a log.
        figures: on `split`; empty if they are not known.
        split: what `figures` were measured on, in words.
        costs: totals by convention (`honest`, and `paper` where it can be counted).
        floors: figures of predictions that do not depend on the image, by kind; empty if not known.
        remarks: sentences on what is missing, and why.
    """

    name: str
    file: Path
    recipe: TrainingRecipe
    model: nn.Module
    truth: Truth
    history: list[dict[str, Any]] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    split: str = ""
    costs: dict[str, dict[str, Any]] = field(default_factory=dict)
    floors: dict[str, dict[str, Any]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def is_packed(self) -> bool:
        """Whether the file holds the packed network, without latent weights."""
        return bool(deployed_layers(self.model))


def read(path: Path, model: nn.Module | None = None) -> Subject:
    """The network of a run's folder, a file of `binarize train` or `deploy`, or `zoo:NAME`.

    Args:
        path: of it.
        model: the float network, for a file whose network is of a custom class that is not built by itself.

    Raises:
        ConfigError: there is no such file.
        FormatError: it was not written by a training, or is corrupt.
    """
    recipe, network, truth = saved.load_with_truth(path, model)
    file = model_file(path)
    subject = Subject(name=str(path), file=file, recipe=recipe, model=network, truth=truth)
    if str(path).startswith(zoo.PREFIX):
        return _of_zoo(subject)
    folder = file.parent
    if file.name == MODEL and (found := kept(folder, recipe.data.test)) is not None:
        subject = replace(subject, figures=found, split=f"{recipe.data.name} {recipe.data.test}")
    if file.name in (MODEL, BEST) and (folder / LOG).is_file():
        subject = _logged(subject, folder)
    else:
        subject = _remarked(subject, "No curves: the file is not in the folder of a run, with its log.")
    return _counted(subject)


def _logged(subject: Subject, folder: Path) -> Subject:
    """With what the log in a folder tells."""
    log = read_log(folder)
    if log.fault:
        subject = _remarked(subject, log.fault if log.lines else f"No curves: {log.fault}")
    return replace(subject, history=log.lines)


def find_data(subject: Subject, root: Path | None, split: str | None) -> tuple[SampleDataset | None, Subject]:
    """A split of the network's data set, and the subject; it says why if there is no such data.

    Args:
        subject: whose recipe names the data set.
        root: its folder, in place of the recipe's.
        split: part of it; the recipe's test split if None.

    Raises:
        ConfigError: no such split.
        DataError: a folder that was given does not hold the data.
    """
    try:
        data = dataset(subject.recipe, split or subject.recipe.data.test, root=root)
        saved.check_classes(subject.file, data.truth)
    except DataError as error:
        if root is not None:
            raise
        return None, _remarked(subject, f"No images, so no predictions: {error}")
    return data, subject


def measured(
    subject: Subject,
    data: SampleDataset | None,
    split: str | None,
    report: Callable[[int], None],
    *,
    own: bool = True,
) -> Subject:
    """The subject with figures of the split, measured if they are not known; else those of the last epoch.

    Args:
        subject: whose figures.
        data: the split through its evaluation transform; None without data.
        split: its name, if it is not the test split.
        report: called with the number of images done.
        own: the data are those of the recipe: figures on its test split are kept beside the run.
    """
    recipe = subject.recipe
    if subject.figures and split in (None, recipe.data.test):
        return subject
    if data is None:
        last = logged_figures(subject.file, subject.history)
        if last is None:
            return _remarked(subject, "No figures: none were measured before, and there is no data.")
        where = f"{recipe.data.name} {recipe.data.val}, after epoch {last[0]}"
        return replace(subject, figures=last[1], split=where)
    device = chosen_device()
    settings, where = recipe.data.evaluation, f"{recipe.data.name} {split or recipe.data.test}"
    found = evaluate(
        subject.model.to(device),
        data,
        output=recipe.network.output,
        device=device,
        batch=settings.batch,
        flip=settings.flip,
        scales=settings.scales,
        report=report,
        where=where,
    )
    folder = subject.file.parent
    of_run = subject.file.name == MODEL and any((folder / name).is_file() for name in (LOG, STATE, TEST))
    if own and split in (None, recipe.data.test) and of_run:
        keep(folder, recipe.data.test, found)
    return replace(subject, figures=found, split=where)


def _of_zoo(subject: Subject) -> Subject:
    """With what was measured when the entry was made."""
    path = zoo.entry(subject.name) / zoo.METRICS
    metrics = json.loads(path.read_text(encoding="utf-8"))
    costs = {name: {**totals, "file_bytes": metrics["bytes"]} for name, totals in metrics["costs"].items()}
    found = replace(
        subject,
        figures=metrics["figures"],
        split=f"{metrics['data']} {metrics['split']}",
        costs=costs,
        floors=metrics["floors"],
    )
    log = path.parent / LOG
    if log.is_file():
        return _logged(found, log.parent)
    if name := metrics["recipe_name"]:
        how = f"`binarize train {name}` with the settings of its card trains it again, with a log"
    else:
        how = "training it again by the recipe in its metrics.json writes one"
    return _remarked(found, f"No curves: this entry of the zoo was made without the log of its run; {how}.")


def _counted(subject: Subject) -> Subject:
    """With its costs at the size that training sees."""
    try:
        size = files.deployed_size(subject.file, subject.model) or subject.file.stat().st_size
        found = cost_totals(subject.model, subject.recipe, size, packed=subject.is_packed)
    except BinarizeError as error:
        return _remarked(subject, f"Costs could not be counted: {error}")
    subject = replace(subject, costs=found)
    if subject.is_packed:
        text = "The paper's counting is of the network in training: give the run in place of its packed file."
        return _remarked(subject, text)
    return subject


def _remarked(subject: Subject, text: str) -> Subject:
    return replace(subject, remarks=(*subject.remarks, text))
