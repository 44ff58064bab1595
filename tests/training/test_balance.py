"""Weights of classes: against counts made by hand, in the loss, and in a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_net import values
from torch.nn import functional as F

from binarize import recipes
from binarize.data.dataset import IGNORE, DenseDataset, Depth, Labels, Pair, Sample
from binarize.errors import ConfigError
from binarize.training.balance import class_weights
from binarize.training.loop import train
from binarize.training.losses import SegmentationLoss

LABELS = Labels(names=("a", "b", "c", "never"), palette=((0, 0, 0), (1, 1, 1), (2, 2, 2), (3, 3, 3)))


class Held(DenseDataset):
    """Truths from memory."""

    def __init__(self, targets: list[torch.Tensor], truth: Labels | Depth = LABELS) -> None:
        super().__init__([Pair(Path("none"), None)] * len(targets), truth)
        self.targets = targets

    def load(self, index: int) -> Sample:
        target = self.targets[index]
        return Sample(torch.zeros(3, *target.shape, dtype=torch.uint8), target)


def test_shares_are_of_all_labelled_pixels() -> None:
    first = torch.tensor([[0, 0, 0, 0], [0, 0, IGNORE, IGNORE]])
    second = torch.tensor([[1, 1, 2]])
    data = Held([first, second])
    shares = torch.tensor([6.0, 2.0, 1.0]) / 9
    inverse = class_weights(data, 1.0)
    assert torch.allclose(
        inverse[:3] * shares, torch.tensor(1 / 3).expand(3)
    )  # each class as much as another
    assert inverse[3] == 0
    half = class_weights(data, 0.5)
    assert torch.allclose(half[2] / half[0], torch.tensor(6.0).sqrt())
    assert torch.allclose((half[:3] * shares).sum(), torch.tensor(1.0))


def test_nothing_labelled_is_no_division_by_zero() -> None:
    assert class_weights(Held([torch.full((2, 2), IGNORE)]), 0.5).tolist() == [0.0] * 4


@given(st.integers(0, 2**31 - 1), st.floats(0, 1))
def test_the_loss_is_torchs_weighted_mean(seed: int, exponent: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 4, 3, 5, generator=generator)
    target = torch.randint(0, 4, (2, 3, 5), generator=generator)
    target[:, 0] = IGNORE
    weights = class_weights(Held(list(target)), exponent)
    expected = F.cross_entropy(logits, target, weights, ignore_index=IGNORE)
    assert torch.allclose(SegmentationLoss(weights)(logits, target), expected, rtol=1e-5)


def test_pixels_without_weight_leave_a_loss_of_zero() -> None:
    logits = torch.randn(1, 4, 2, 2, requires_grad=True)
    loss = SegmentationLoss(torch.tensor([1.0, 1.0, 1.0, 0.0]))(logits, torch.full((1, 2, 2), 3))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_a_run_with_balance_is_another_one(tmp_path: Path) -> None:
    def first_loss(name: str, **training: Any) -> float:
        chosen = recipes.validate(values(epochs=1, **training), "a test")
        return train(chosen, tmp_path / name)[0]["loss"]

    plain = first_loss("plain")
    assert first_loss("none", class_balance=0.0) == plain
    assert first_loss("half", class_balance=0.5) != plain


def test_depth_has_no_classes() -> None:
    depth = Held([torch.ones(2, 2)], Depth(most=10.0, scale=1000.0))
    with pytest.raises(ConfigError, match="class_balance is for data sets with classes"):
        class_weights(depth, 0.5)
