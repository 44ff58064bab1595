"""Frozen layers with fixed weights are functions: float, and neither first nor last."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import binarize
from binarize.graph import Plan, Policy

IMAGE = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Expectation(nn.Module):
    """Of 8 bins, as a frozen convolution with weights 0 to 7."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 1, 1, bias=False).requires_grad_(False)
        self.conv.weight.copy_(torch.arange(8.0).view(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        return self.conv(x.view(n, 4, 8, h * w).transpose(2, 1).softmax(1)).view(n, 4, h, w)


class MeanShift(nn.Conv2d):
    def __init__(self, sign: int) -> None:
        super().__init__(3, 3, 1)
        self.requires_grad_(False)
        self.weight.copy_(torch.eye(3).view(3, 3, 1, 1))
        self.bias.copy_(sign * torch.tensor([0.44, 0.43, 0.40]))  # type: ignore[union-attr]


class Fixed(nn.Module):
    """A mean shift in front and behind, a blur between, bins in front of the output."""

    def __init__(self) -> None:
        super().__init__()
        self.less, self.more = MeanShift(-1), MeanShift(1)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blur = nn.Conv2d(8, 8, 3, 2, 1, groups=8, bias=False).requires_grad_(False)
        taps = torch.tensor([1.0, 2.0, 1.0])
        self.blur.weight.copy_(taps.outer(taps) / 16)
        self.body = nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.image, self.boxes, self.bins = nn.Conv2d(8, 3, 1), nn.Conv2d(8, 32, 1), Expectation()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.body(self.blur(self.stem(self.less(x))))
        return self.more(self.image(y)), self.bins(self.boxes(y))


def reasons(made: Plan) -> dict[str, str]:
    return {row.name: "" if row.converted else row.reason for row in made.rows}


def test_fixed_layers_are_functions() -> None:
    model = Fixed()
    fixed = dict.fromkeys(("less", "blur", "more", "bins.conv"), "frozen: its weight is a constant")
    rest = {"stem": "stem: sees the input", "body.1": ""}
    final = dict.fromkeys(("image", "boxes"), "final classifier or regressor")
    made = binarize.plan(model, "bidense", example_inputs=IMAGE)
    assert reasons(made) == {**fixed, **rest, **final}
    assert [output.final for output in made.outputs] == [("image",), ("boxes",)]
    model.requires_grad_(False)  # all of a network for inference is frozen
    assert reasons(binarize.plan(model, "bidense", example_inputs=IMAGE)) == {**fixed, **rest, **final}
    everything = binarize.plan(model, "bidense", example_inputs=IMAGE, policy=Policy(first=0, last=0))
    assert reasons(everything) == {**fixed, "stem": "", "body.1": "", "image": "", "boxes": ""}


def test_a_fixed_filter_of_any_values_stands_alone() -> None:
    model = Fixed()
    model.blur.weight.copy_(torch.rand(8, 1, 3, 3))
    assert reasons(binarize.plan(model, "bidense", example_inputs=IMAGE))["blur"].startswith("frozen")


def test_a_frozen_encoder_was_learnt() -> None:
    def part(channels: int) -> list[nn.Module]:
        return [nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]

    encoder = nn.Sequential(*part(3), *part(8), *part(8)).requires_grad_(False)
    model = nn.Sequential(encoder, nn.Sequential(*part(8)), nn.Conv2d(8, 2, 1))
    made = reasons(binarize.plan(model, "bidense", example_inputs=IMAGE))
    assert made == {
        "0.0": "stem: sees the input",
        "0.3": "",
        "0.6": "",
        "1.0": "",
        "2": "final classifier or regressor",
    }


def test_frozen_weights_that_were_stored_in_16_bits_were_learnt() -> None:
    """As all of a network for inference is: many of its values are equal."""
    parts = [nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Conv2d(64, 2, 1)]
    model = nn.Sequential(*parts).bfloat16().float().requires_grad_(False)
    weight = model[2].weight
    assert 2 * weight.unique().numel() < weight.numel()  # type: ignore[operator, union-attr]
    assert reasons(binarize.plan(model, "bidense", example_inputs=IMAGE)) == {
        "0": "stem: sees the input",
        "2": "",
        "4": "final classifier or regressor",
    }


def test_a_frozen_stem_is_the_first_layer() -> None:
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()).requires_grad_(False)
    model = nn.Sequential(stem, nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    assert reasons(binarize.plan(model, "bidense", example_inputs=IMAGE)) == {
        "0.0": "stem: sees the input",
        "1": "",
        "3": "final classifier or regressor",
    }


def test_a_frozen_change_of_colours_is_a_function() -> None:
    colours = nn.Conv2d(3, 3, 1).requires_grad_(False)
    model = nn.Sequential(colours, nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 2, 1))
    assert reasons(binarize.plan(model, "bidense", example_inputs=IMAGE)) == {
        "0": "frozen: its weight is a constant",
        "1": "stem: sees the input",
        "3": "",
        "4": "final classifier or regressor",
    }
