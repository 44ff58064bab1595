"""How good a prediction is that does not depend on the image: a trained network has to be better."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from binarize.recipes import TrainingRecipe
from binarize.training.build import dataset
from binarize.training.evaluation import evaluate
from binarize.training.tasks import task_of
from binarize.training.tasks.base import Baseline


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
) -> dict[Baseline, dict[str, Any]]:
    """Figures, on the recipe's test split, of two predictions made from the truths of its training split.

    `constant` is one value for all pixels: the class that most pixels have, or the median depth.
    `by_position` has a value for each place in the picture: its most frequent class, or the geometric mean of
    its depths.

    Args:
        recipe: which data, prepared as for its evaluation.
        root: folder of the data set, in place of the recipe's.
        report: called with the number of images done and of all.

    Raises:
        ConfigError: no such data set or split.
        DataError: data that is missing or wrong, or has no truth.
    """
    train, test = (dataset(recipe, split, root=root) for split in (recipe.data.train, recipe.data.test))
    where = f"{recipe.data.name} {recipe.data.test}"
    task = task_of(train.truth)
    task.inspect(train, f"{recipe.data.name} {recipe.data.train}")
    task.inspect(test, where)
    total = len(train) + task.count_of_baselines * len(test)

    def tell(done: int) -> None:
        if report is not None:
            report(done, total)

    found: dict[Baseline, dict[str, Any]] = {}
    for kind, output in task.baselines(train, tell).items():
        before = len(train) + len(found) * len(test)
        found[kind] = evaluate(
            Constant(output),
            test,
            batch=recipe.data.evaluation.batch,
            report=lambda done, before=before: tell(before + done),
            where=where,
        )
    return found
