"""Depth: metres for every pixel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from binarize.data.dataset import DenseDataset, Depth
from binarize.data.samples import SampleDataset
from binarize.errors import ConfigError
from binarize.recipes.schema import Training
from binarize.training.figures import DEPTH
from binarize.training.losses import SiLog
from binarize.training.metrics import DepthMetric
from binarize.training.tasks.base import Baseline
from binarize.training.tasks.maps import MapTask, truths

_BINS = 100_000  # of depths: the median is known to a part of them


class DepthTask(MapTask):
    """Metres (N, 1, H, W) for metres (N, H, W).

    Args:
        depth: of the data set.
    """

    name = "depth"
    figures = DEPTH

    def __init__(self, depth: Depth) -> None:
        super().__init__(depth)
        self._depth = depth

    @property
    def outputs(self) -> int:
        """One."""
        return 1

    @property
    def expected(self) -> str:
        """Metres in one channel."""
        return "metres (N, 1, H, W)"

    def arguments(self) -> dict[str, Any]:
        """`task`, `max_depth` and `min_depth`."""
        return {"task": self.name, "max_depth": self._depth.most, "min_depth": self._depth.least}

    def check_channels(self, channels: int) -> None:
        """Refuse more than one."""
        if channels != 1:
            raise ConfigError(f"the network gives {channels} channels, expected {self.expected}.")

    def spare(self, output: Tensor) -> str:
        """There are none."""
        return ""

    def loss(self, settings: Training, weights: Tensor | None = None) -> SiLog:
        """The paper's."""
        return SiLog(self._depth)

    def metric(self, outputs: int | None = None) -> DepthMetric:
        """Figures per image, and their means."""
        return DepthMetric(self._depth)

    def class_counts(self, data: SampleDataset, indices: Sequence[int]) -> Tensor:
        """There are no classes."""
        raise ConfigError(
            "training.class_balance is for data sets with classes; this one has depth. Leave it out."
        )

    def baselines(self, train: DenseDataset, tell: Callable[[int], None]) -> dict[Baseline, Tensor]:
        """The median depth, and the geometric mean at each place, (1, H, W)."""
        depth = self._depth
        logs: Tensor | None = None
        number = torch.zeros(())
        counts = torch.zeros(_BINS, dtype=torch.float64)  # the depths of a large set do not fit into memory
        for target in truths(train, tell):
            if logs is None:
                logs, number = torch.zeros_like(target), torch.zeros_like(target)
            known = (target > depth.least) & (target <= depth.most)
            logs += torch.where(known, target.clamp_min(depth.least).log(), 0.0)
            number += known
            counts += torch.histc(target[known], _BINS, 0.0, depth.most).double()
        if logs is None:
            raise ValueError("no images")
        middle = int(torch.searchsorted(counts.cumsum(0), counts.sum() / 2))
        median = (middle + 0.5) / _BINS * depth.most
        mean = torch.where(number > 0, (logs / number.clamp_min(1)).exp(), median)
        return {"constant": torch.full_like(mean, median)[None], "by_position": mean[None]}
