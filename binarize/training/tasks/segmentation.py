"""Segmentation: a class for every pixel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from binarize.data.dataset import IGNORE, DenseDataset, Labels
from binarize.data.samples import SampleDataset
from binarize.errors import ConfigError
from binarize.recipes.schema import Training
from binarize.training.figures import SEGMENTATION
from binarize.training.losses import SegmentationLoss
from binarize.training.metrics import SegmentationMetric
from binarize.training.tasks.base import Baseline
from binarize.training.tasks.maps import MapTask, truths


class SegmentationTask(MapTask):
    """Logits (N, classes, H, W) for class ids (N, H, W).

    Args:
        labels: of the data set.
    """

    name = "segmentation"
    figures = SEGMENTATION

    def __init__(self, labels: Labels) -> None:
        super().__init__(labels)
        self._labels = labels

    @property
    def outputs(self) -> int:
        """One for each class."""
        return len(self._labels.names)

    @property
    def expected(self) -> str:
        """Logits of all classes."""
        return f"logits (N, {self.outputs}, H, W)"

    def arguments(self) -> dict[str, Any]:
        """`task`."""
        return {"task": self.name}

    def check_channels(self, channels: int) -> None:
        """Refuse too few."""
        n = self.outputs
        if channels < n:
            raise ConfigError(
                f"the network has {channels} classes, the data set has {n}; set num_classes={n} "
                "(network.options.num_classes), or leave it out."
            )

    def spare(self, output: Tensor) -> str:
        """More channels than classes."""
        channels, n = output.shape[1], self.outputs
        return "" if channels <= n else f"the network has {channels} classes, the data set has {n}"

    def loss(self, settings: Training, weights: Tensor | None = None) -> SegmentationLoss:
        """Cross entropy."""
        return SegmentationLoss(weights)

    def metric(self, outputs: int | None = None) -> SegmentationMetric:
        """Pixel accuracy and mIoU."""
        return SegmentationMetric(self._labels, outputs)

    def class_counts(self, data: SampleDataset, indices: Sequence[int]) -> Tensor:
        """Pixels; truths are read at their own size, without augmentation."""
        counts = torch.zeros(self.outputs, dtype=torch.float64)
        for index in indices:
            target = data.target(index)
            counts += torch.bincount(target[target != IGNORE], minlength=self.outputs).double()
        return counts

    def baselines(self, train: DenseDataset, tell: Callable[[int], None]) -> dict[Baseline, Tensor]:
        """Pixels of each class, in all and at each place, as logits (classes, H, W)."""
        counts: Tensor | None = None
        for target in truths(train, tell):
            if counts is None:
                counts = torch.zeros(self.outputs, *target.shape)
            known = target != IGNORE
            counts.scatter_add_(0, torch.where(known, target, 0)[None], known[None].float())
        if counts is None:
            raise ValueError("no images")
        counts[list(self._labels.unscored)] = -1.0
        return {"constant": counts.sum((1, 2), keepdim=True).expand_as(counts), "by_position": counts}
