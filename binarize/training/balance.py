"""How much a class's pixels count in the loss, from how many of them there are."""

from __future__ import annotations

import torch
from torch import Tensor

from binarize.data.samples import SampleDataset
from binarize.training.distributed import all_sum
from binarize.training.tasks import task_of


def class_weights(
    data: SampleDataset,
    exponent: float,
    *,
    rank: int = 0,
    world: int = 1,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Weights (classes,) float32 on `device`: share of labelled pixels ^ -`exponent`.

    Scaled so that the mean over the labelled pixels is 1; 0 for classes that never occur. With an exponent of
    1 every class counts as much as any other in the whole data set; 0.5 is between the two.

    Args:
        data: training split.
        exponent: from 0, where all pixels count alike, to 1.
        rank: of this process, which reads every `world`-th truth.
        world: number of processes.
        device: where processes exchange their counts.

    Raises:
        ConfigError: the data set has no classes.
        DataError: a file cannot be read.
    """
    counts = task_of(data.truth).class_counts(data, range(rank, len(data), world))
    shares = all_sum(counts.to(device, torch.float32))
    shares = shares / shares.sum().clamp_min(1)
    weights = torch.where(shares > 0, shares.clamp_min(1e-12) ** -exponent, 0.0)
    return weights / (weights * shares).sum().clamp_min(1e-12)
