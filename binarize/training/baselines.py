"""How good a prediction is that never looks at the image: what a trained network has to beat."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binarize.data.dataset import IGNORE, DenseDataset, Depth, Labels
from binarize.data.survey import inspect
from binarize.recipes import TrainingRecipe
from binarize.training.build import dataset
from binarize.training.evaluate import evaluate

_BINS = 100_000  # of depths: the median is known to a part of them
Kind = Literal["constant", "by_position"]


class Constant(nn.Module):
    """The same map for every image.

    Args:
        output: logits (C, H, W), or metres (1, H, W).
    """

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.register_buffer("output", output)
        self.output: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, *, *) -> (N, *output.shape)."""
        return self.output.expand(len(images), *self.output.shape)


def baselines(
    recipe: TrainingRecipe, *, root: Path | None = None, report: Callable[[int, int], None] | None = None
) -> dict[Kind, dict[str, Any]]:
    """Figures, on the recipe's test split, of two predictions made from the truths of its training split.

    `constant` is one value for all pixels: the class that most pixels have, or the median depth.
    `by_position` has a value for each place in the picture: its most frequent class, or the geometric mean of
    its depths.

    Args:
        recipe: which data, seen as its evaluation sees it.
        root: folder of the data set, in place of the recipe's.
        report: called with the number of images done and of all.

    Raises:
        ConfigError: no such data set or split.
        DataError: data that is missing or wrong, or has no truth.
    """
    train, test = (dataset(recipe, split, root=root) for split in (recipe.data.train, recipe.data.test))
    where = f"{recipe.data.name} {recipe.data.test}"
    inspect(train, f"{recipe.data.name} {recipe.data.train}")
    inspect(test, where)
    total = len(train) + 2 * len(test)

    def tell(done: int) -> None:
        if report is not None:
            report(done, total)

    maps = (_depths if isinstance(train.truth, Depth) else _classes)(train, tell)
    found: dict[Kind, dict[str, Any]] = {}
    for kind, output in maps.items():
        before = len(train) + len(found) * len(test)
        found[kind] = evaluate(
            Constant(output),
            test,
            batch=recipe.data.evaluation.batch,
            report=lambda done, before=before: tell(before + done),
            where=where,
        )
    return found


def _classes(train: DenseDataset, tell: Callable[[int], None]) -> dict[Kind, Tensor]:
    labels = train.truth
    if not isinstance(labels, Labels):
        raise TypeError("no labels")
    counts: Tensor | None = None
    for index in range(len(train)):
        target = _fitted(train[index].target, counts)
        if counts is None:
            counts = torch.zeros(len(labels.names), *target.shape)
        known = target != IGNORE
        counts.scatter_add_(0, torch.where(known, target, 0)[None], known[None].float())
        tell(index + 1)
    if counts is None:
        raise ValueError("no images")
    counts[list(labels.unscored)] = -1.0
    return {"constant": counts.sum((1, 2), keepdim=True).expand_as(counts), "by_position": counts}


def _depths(train: DenseDataset, tell: Callable[[int], None]) -> dict[Kind, Tensor]:
    depth = train.truth
    if not isinstance(depth, Depth):
        raise TypeError("no depth")
    logs: Tensor | None = None
    number = torch.zeros(())
    counts = torch.zeros(_BINS, dtype=torch.float64)  # the depths of a large data set do not fit into memory
    for index in range(len(train)):
        target = _fitted(train[index].target, logs)
        if logs is None:
            logs, number = torch.zeros_like(target), torch.zeros_like(target)
        known = (target > depth.least) & (target <= depth.most)
        logs += torch.where(known, target.clamp_min(depth.least).log(), 0.0)
        number += known
        counts += torch.histc(target[known], _BINS, 0.0, depth.most).double()
        tell(index + 1)
    if logs is None:
        raise ValueError("no images")
    middle = int(torch.searchsorted(counts.cumsum(0), counts.sum() / 2))
    median = (middle + 0.5) / _BINS * depth.most
    mean = torch.where(number > 0, (logs / number.clamp_min(1)).exp(), median)
    return {"constant": torch.full_like(mean, median)[None], "by_position": mean[None]}


def _fitted(target: Tensor, like: Tensor | None) -> Tensor:
    """(H, W) at the size of the first truth, nearest, where pictures are of several sizes."""
    if like is None or target.shape == like.shape[-2:]:
        return target
    resized = F.interpolate(target[None, None].double(), size=like.shape[-2:], mode="nearest")
    return resized[0, 0].to(target.dtype)
