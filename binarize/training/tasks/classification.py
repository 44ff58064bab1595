"""Classification: a class for a whole image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from binarize.data.class_survey import inspect
from binarize.data.class_transforms import evaluation_transform, training_transform
from binarize.data.classes import ClassDataset, Classes
from binarize.data.samples import SampleDataset, Transform
from binarize.errors import ConfigError, DataError
from binarize.recipes.schema import Augmentation, Evaluation, Training
from binarize.training.figures import CLASSIFICATION
from binarize.training.losses import ClassificationLoss
from binarize.training.metrics import ClassificationMetric
from binarize.training.mixing import Mixing, create_mixing
from binarize.training.tally import Tally
from binarize.training.tasks.base import Baseline, Task

_AUGMENTATION = {"size", "resize", "flip", "pad", "area", "ratio", "rand_augment", "erase"}
_EVALUATION = {"resize", "short_side", "crop"}


class ClassificationTask(Task):
    """Logits (N, classes) for class ids (N,).

    Args:
        classes: of the data set.
    """

    name = "classification"
    figures = CLASSIFICATION
    settings = frozenset(_AUGMENTATION | _EVALUATION | {"label_smoothing", "mixup", "cutmix"})
    count_of_baselines = 1

    def __init__(self, classes: Classes) -> None:
        self._classes = classes

    @property
    def outputs(self) -> int:
        """One for each class."""
        return len(self._classes.names)

    def arguments(self) -> dict[str, Any]:
        """`task`."""
        return {"task": self.name}

    def check(self, output: Tensor, size: tuple[int, int] | None) -> None:
        """Refuse what is not (N, classes), as many as the data set has: none is ignored later."""
        n = self.outputs
        if output.dim() != 2:
            maps = (
                " It looks like a network for pixels; a classifier is, for instance, 'timm:resnet18' or "
                "'resnet20-cifar'."
            )
            raise ConfigError(
                f"the network gives a tensor {tuple(output.shape)}, expected logits (N, {n}), one for each "
                f"class: let its forward return that alone.{maps if output.dim() == 4 else ''}"
            )
        if output.shape[1] != n:
            raise ConfigError(
                f"the network has {output.shape[1]} classes, the data set has {n}: let a callable take "
                f"num_classes, which the data set gives, leave it out of network.options, or set it to {n}."
            )

    def spare(self, output: Tensor) -> str:
        """`check` refuses them."""
        return ""

    def resolution(self, output: Tensor, size: tuple[int, int]) -> tuple[int, int]:
        """There are no maps to resize."""
        return size

    def loss(self, settings: Training, weights: Tensor | None = None) -> ClassificationLoss:
        """Cross entropy, with `label_smoothing`."""
        return ClassificationLoss(settings.label_smoothing, weights)

    def mixing(self, settings: Training) -> Mixing | None:
        """Mixup or CutMix."""
        return create_mixing(settings, self.outputs)

    def metric(self, outputs: int | None = None) -> ClassificationMetric:
        """Top-1, top-5 and the confusion matrix."""
        return ClassificationMetric(self._classes)

    def training_transform(self, settings: Augmentation) -> Transform:
        """`data.class_transforms.training_transform`."""
        return training_transform(**settings.model_dump(include=_AUGMENTATION))

    def evaluation_transform(self, settings: Evaluation) -> Transform:
        """`data.class_transforms.evaluation_transform`."""
        return evaluation_transform(**settings.model_dump(include=_EVALUATION))

    def inspect(self, data: ClassDataset, where: str) -> set[str]:
        """By the classes of all images and a sample of the files."""
        return inspect(data, where)

    def tally(self, data: ClassDataset, where: str, known: set[str]) -> Tally | None:
        """No augmentation changes a class: `inspect` saw all."""
        return None

    def nothing(self, data: ClassDataset, where: str) -> Exception:
        """There was no image."""
        return DataError(f"{where}: no image.")

    def class_counts(self, data: SampleDataset, indices: Sequence[int]) -> Tensor:
        """Images; none is read."""
        labels = torch.stack([data.target(index) for index in indices])
        return torch.bincount(labels, minlength=self.outputs).double()

    def baselines(self, train: ClassDataset, tell: Callable[[int], None]) -> dict[Baseline, Tensor]:
        """The most frequent classes, as logits (classes,)."""
        tell(len(train))
        return {"constant": train.counts().float()}
