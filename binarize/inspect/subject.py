"""A trained network with what is needed to look into it: its recipe, its images, its start and its log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from binarize import model_names
from binarize.data.samples import Sample, SampleDataset, Transform
from binarize.errors import BinarizeError, ConfigError, DataError
from binarize.recipes import TrainingRecipe
from binarize.tables import better
from binarize.training import saved
from binarize.training.build import dataset, network
from binarize.training.evaluation import evaluate, resized
from binarize.training.figures import SEGMENTATION, headline
from binarize.training.folder import Log, model_file, read_log
from binarize.training.step import training_output
from binarize.training.tasks import task_of

_HIGHER = better(SEGMENTATION.main)


class Part(SampleDataset):
    """Some samples of a data set, in the order of their indices.

    Args:
        data: all of them.
        indices: which.
    """

    def __init__(self, data: SampleDataset, indices: Sequence[int]) -> None:
        self.truth, self.transform, self.seed = data.truth, data.transform, data.seed
        self._data, self._indices = data, tuple(indices)

    def __len__(self) -> int:
        return len(self._indices)

    def load(self, index: int) -> Sample:
        """See `SampleDataset`."""
        return self._data.load(self._indices[index])

    def target(self, index: int) -> Tensor:
        """See `SampleDataset`."""
        return self._data.target(self._indices[index])

    def name(self, index: int) -> str:
        """See `SampleDataset`."""
        return self._data.name(self._indices[index])

    def apply(self, transform: Transform, sample: Sample) -> Sample:
        """See `SampleDataset`."""
        return self._data.apply(transform, sample)


def spread(count: int, wanted: int) -> list[int]:
    """Indices at equal distances.

    Args:
        count: of all that there are.
        wanted: how many; all of them if there are fewer.
    """
    return list(range(count)) if wanted >= count else [i * count // wanted for i in range(wanted)]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One network to look into.

    Attributes:
        label: its name in pictures and tables.
        path: what was given: a run's folder, a file, `zoo:NAME`.
        recipe: that trained it.
        model: in evaluation mode.
        data: the images, through its recipe's evaluation transform.
    """

    label: str
    path: Path
    recipe: TrainingRecipe
    model: nn.Module
    data: SampleDataset

    def batches(self, most: int | None = None, size: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of images (N, 3, H, W) and truths, neighbours of one size together.

        Args:
            most: images in all, spread over the data; None for all.
            size: images at once; None for the recipe's.
        """
        size = size or self.recipe.data.evaluation.batch
        pending: list[Any] = []
        for index in spread(len(self.data), most or len(self.data)):
            sample = self.data[index]
            fits = not pending or all(a.shape == b.shape for a, b in zip(sample, pending[0], strict=True))
            if pending and (len(pending) == size or not fits):
                yield _stacked(pending)
                pending = []
            pending.append(sample)
        if pending:
            yield _stacked(pending)

    def score(self, model: nn.Module) -> tuple[str, float]:
        """Name and value of the main figure of a network on the data.

        Raises:
            DataError: the data has nothing to measure.
        """
        settings = self.recipe.data.evaluation
        name, value = headline(
            evaluate(
                model, self.data, output=self.recipe.network.output, batch=settings.batch, device=self.device
            )
        )
        if value is None:
            raise DataError(f"{self.label}: the images have no truth, so {name} cannot be measured.")
        return name, value

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of the training for a batch."""
        images, targets = (t.to(self.device) for t in batch)
        output = training_output(model, images, self.recipe.network.output)
        loss = task_of(self.data.truth).loss(self.recipe.training)
        return loss(resized(output, targets.shape[-2:]), targets)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        tensors = (*self.model.parameters(), *self.model.buffers())
        return next((t.device for t in tensors), torch.device("cpu"))

    def history(self) -> Log:
        """The figures of each epoch, from the run's log, and what is missing of it."""
        return read_log(model_file(self.path).parent)

    def start(self) -> tuple[nn.Module | None, str]:
        """The network that the training started from, or None and the reason why it cannot be built again."""
        chosen = self.recipe
        if chosen.stages:
            return None, "the training had stages, and the last one began with the weights of the one before"
        if chosen.network.pretrained or chosen.training.start_from is not None:
            return None, "the training started from other weights than the recipe's seed gives"
        if model_names.is_own(chosen.network.name):
            return None, "the network's code is not part of the toolkit"
        try:
            return network(chosen, self.data.truth, weights=False), ""
        except BinarizeError as error:
            return None, str(error)


def load_subjects(
    paths: Sequence[Path],
    labels: Sequence[str],
    loaded: Sequence[tuple[TrainingRecipe, nn.Module]],
    *,
    root: Path | None = None,
    split: str | None = None,
    images: int,
) -> list[Subject]:
    """Networks with the same images of one data set, each through its own recipe's transform.

    Args:
        paths: as given.
        labels: of the networks, all different.
        loaded: recipe and network of each (`binarize.training.saved.load`).
        root: folder of the data set, in place of the recipes'.
        split: part of the data set; None for the test split of the first recipe.
        images: how many, spread over the split.

    Raises:
        ConfigError: networks of different data sets.
        DataError: files are missing.
    """
    first = loaded[0][0]
    part = split or first.data.test
    found = []
    for path, label, (recipe, model) in zip(paths, labels, loaded, strict=True):
        if (recipe.data.name, recipe.data.options) != (first.data.name, first.data.options):
            raise ConfigError(
                f"inspect: {path} was trained on {recipe.data.name}, {paths[0]} on {first.data.name}, or "
                "with other options of the data; expected networks of one data set: inspect them one by one."
            )
        data = dataset(recipe, part, root=root)
        if not len(data):
            raise DataError(f"{recipe.data.name} {part}: no images.")
        part_of = Part(data, spread(len(data), images))
        found.append(Subject(label=label, path=path, recipe=recipe, model=model, data=part_of))
    return found


def load_networks(
    paths: Sequence[Path], model: nn.Module | None = None
) -> list[tuple[TrainingRecipe, nn.Module]]:
    """Recipe and network of each; see `binarize.training.saved.load`.

    Args:
        paths: of runs, their files or `zoo:NAME`.
        model: the float network, for those of code that is gone or another account's.
    """
    custom = [model is not None and saved.is_custom(path) for path in paths]
    return [saved.load(path, model if own else None) for path, own in zip(paths, custom, strict=True)]


def is_higher_better(figure: str) -> bool:
    """Whether a higher value of a main figure is better."""
    return better(figure) == _HIGHER


def _stacked(samples: Sequence[Any]) -> tuple[Tensor, Tensor]:
    return torch.stack([s.image for s in samples]), torch.stack([s.target for s in samples])
