"""The interface of all tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Literal, Protocol

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from binarize.data.findings import Finding
from binarize.data.samples import SampleDataset, Transform
from binarize.recipes import TrainingRecipe
from binarize.recipes.schema import Augmentation, Evaluation, Training
from binarize.training.figures import Figures
from binarize.training.mixing import Mixing
from binarize.training.tally import Tally

Baseline = Literal["constant", "by_position"]
"""Predictions that do not depend on the image: one for all pixels, or one for each position."""

_ALL = frozenset(
    {"size", "resize", "flip", "batch", "crop", "short_side", "scales"}
)  # settings of every task

_SPECIAL = frozenset({"label_smoothing", "mixup", "cutmix"})  # of `training`, where most are of every task


class Metric(Protocol):
    """Figures over a whole data set, of one process or many."""

    def to(self, device: torch.device) -> Any:
        """The metric where predictions are."""
        ...

    def update(self, output: Tensor, target: Tensor) -> None:
        """Add the predictions for a batch."""
        ...

    def compute(self) -> dict[str, Any]:
        """The figures by name; all processes have to call this."""
        ...


class Task(ABC):
    """What a task needs, by the truth of a data set.

    Attributes:
        name: of the task.
        figures: what it measures.
        settings: names of the settings of `data.augmentation`, `data.evaluation` and `training` that not
            every task has, but this one.
        count_of_baselines: predictions that `baselines` gives.
    """

    name: ClassVar[str]
    figures: ClassVar[Figures]
    settings: ClassVar[frozenset[str]]
    count_of_baselines: ClassVar[int] = 2

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Channels of the network's output."""

    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """What a network receives besides the number of outputs, by the names of its arguments."""

    @abstractmethod
    def check(self, output: Tensor, size: tuple[int, int] | None) -> None:
        """Refuse an output of the network that the loss cannot use.

        Args:
            output: of the network.
            size: (H, W) of the image, if the output must not be far coarser.

        Raises:
            ConfigError: it has another shape.
        """

    @abstractmethod
    def spare(self, output: Tensor) -> str:
        """What is wrong with outputs that no truth uses; nothing if there are none."""

    @abstractmethod
    def resolution(self, output: Tensor, size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) at which the network answers for an image of a size."""

    @abstractmethod
    def loss(self, settings: Training, weights: Tensor | None = None) -> nn.Module:
        """The loss of outputs and targets; with weights of the classes if they do not count alike."""

    def mixing(self, settings: Training) -> Mixing | None:
        """What mixes the images of a step with each other, and their targets."""
        return None

    @abstractmethod
    def metric(self, outputs: int | None = None) -> Metric:
        """What measures predictions of a network with this number of outputs, if that is known."""

    @abstractmethod
    def training_transform(self, settings: Augmentation) -> Transform:
        """From a sample to what the network sees in training."""

    @abstractmethod
    def evaluation_transform(self, settings: Evaluation) -> Transform:
        """From a sample to what is evaluated."""

    @abstractmethod
    def inspect(self, data: Any, where: str) -> set[str]:
        """Look at a data set before it is used; warn of what is wrong.

        Args:
            data: the data set.
            where: its name in messages: "camvid train".

        Returns:
            The kinds of the findings that were warned of.

        Raises:
            DataError: nothing can be learned from it.
        """

    def doubts(
        self, data: Any, val: Any, names: tuple[str, str], augmentation: Augmentation
    ) -> list[Finding]:
        """What is doubtful about the splits for training and validation together.

        Args:
            data: the training split.
            val: the validation split, or None.
            names: of both in messages: "camvid train".
            augmentation: of training images.
        """
        return []

    @abstractmethod
    def tally(self, data: Any, where: str, known: set[str]) -> Tally | None:
        """What counts the truths of the first epoch, with the kinds of what was warned of already."""

    @abstractmethod
    def nothing(self, data: Any, where: str) -> Exception:
        """The error for a data set on which nothing could be measured."""

    @abstractmethod
    def class_counts(self, data: SampleDataset, indices: Sequence[int]) -> Tensor:
        """How often each class occurs in the truths of these samples, (classes,) float64.

        Raises:
            ConfigError: the truth has no classes.
        """

    @abstractmethod
    def baselines(self, train: Any, tell: Callable[[int], None]) -> dict[Baseline, Tensor]:
        """Outputs for one image, made from the truths of a training split; `tell` gets how many were read."""

    @classmethod
    def faults(cls, recipe: TrainingRecipe) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Settings of a recipe that only other tasks have, with their places."""
        parts: tuple[tuple[tuple[str, ...], BaseModel, frozenset[str]], ...] = (
            (("data", "augmentation"), recipe.data.augmentation, _ALL),
            (("data", "evaluation"), recipe.data.evaluation, _ALL),
            (("training",), recipe.training, frozenset(Training.model_fields) - _SPECIAL),
        )
        for place, part, common in parts:
            for name, field in type(part).model_fields.items():
                if name in common | cls.settings or getattr(part, name) == field.default:
                    continue
                yield (
                    (*place, name),
                    f"{name} is not for {cls.name}, which is what this data set is for: leave it out.",
                )
