"""What is watched while a network trains: numbers that are not finite, weights that no gradient reaches."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import binarize
from binarize.data import Labels
from binarize.training import fit
from binarize.training.health import LatentWatch, first_not_finite


class Masked(nn.Module):
    """An attention mask as a buffer, and a layer that is called without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)
        self.body, self.blind, self.head = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 2, 1)
        self.register_buffer("mask", torch.full((4, 4), float("-inf")).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.body(torch.relu(self.norm(self.stem(x)))))
        with torch.no_grad():
            factor = 1 + self.blind(x).mean() * self.mask.softmax(-1).sum()
        return self.head(x * factor)


def binary() -> nn.Module:
    torch.manual_seed(0)
    return binarize.apply(Masked(), "reactnet", example_inputs=torch.rand(2, 3, 8, 8))


def test_infinities_in_a_mask_do_not_end_a_training() -> None:
    data = [(torch.full((3, 8, 8), 60 * i, dtype=torch.uint8), torch.full((8, 8), i % 2)) for i in range(4)]
    trained = fit(binary(), data, epochs=1, batch=2, truth=Labels(names=("a", "b")))
    assert trained.history[0]["dead"] >= 8 * 4 / (8 * 4 + 8 * 8)  # those of `blind`
    assert bool(trained.network.mask.isinf().any())


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("norm.running_var", "the statistics norm.running_var"),
        ("body.norm.running_mean", "the statistics body.norm.running_mean"),
        ("stem.weight", "the weights stem.weight"),
        ("mask", ""),
    ],
)
def test_what_is_not_finite_is_named(name: str, said: str, number: float) -> None:
    model = copy.deepcopy(binary())
    model.state_dict()[name].view(-1)[0] = number
    assert first_not_finite(model) == said


def test_weights_without_a_gradient_count_as_not_reached_unless_they_are_frozen() -> None:
    model = binary()
    watch = LatentWatch(model)
    assert watch.figures() == {"flipped": 0.0, "dead": 1.0}  # no step so far
    model(torch.rand(2, 3, 8, 8)).sum().backward()
    with torch.no_grad():
        model.body.weight.grad[:4] = 1.0
        model.body.weight.grad[4:] = 0.0
        model.body.weight[0].neg_()
    found = watch.figures()
    assert found["dead"] == (8 * 4 + 4 * 8) / (8 * 4 + 8 * 8)  # `blind`, and half of `body`
    assert found["flipped"] == pytest.approx(8 / 96)
    model.blind.weight.requires_grad_(False)
    assert watch.figures()["dead"] == 4 * 8 / 96
