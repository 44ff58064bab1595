"""Which plan a model has, and which images it is used on."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

import binarize
from binarize.errors import TraceError
from binarize.files import create_timm
from binarize.graph import example_size
from binarize.model_info import built_size, configured_size, converted_size, input_size, plan_of


def _net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))


def test_a_model_that_says_nothing() -> None:
    net = _net()
    assert plan_of(net) is converted_size(net) is configured_size(net) is None
    assert input_size(net) == (3, 224, 224)


def test_the_conversion_counts_before_the_configuration() -> None:
    model = create_timm("test_resnet", in_chans=1)
    assert configured_size(model) == (3, 160, 160)
    assert input_size(model) == (1, 160, 160)
    converted = binarize.apply(model, "bnn", example_inputs=torch.rand(1, 1, 64, 96))
    assert plan_of(converted).converted
    assert converted_size(converted) == input_size(converted) == (1, 64, 96)


@pytest.mark.parametrize("inputs", [torch.rand(1, 2, 16, 24), torch.rand(2, 16, 24)])
def test_only_images_have_a_size(inputs: torch.Tensor) -> None:
    converted = binarize.apply(_net(), "bnn", example_inputs=inputs)
    assert converted_size(converted) == ((2, 16, 24) if inputs.dim() == 4 else None)


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("resnet10t", {"in_chans": 1}, (1, 176, 176)),
        ("mixer_s32_224", {"img_size": 96}, (3, 96, 96)),
        ("test_vit", {"img_size": (64, 96), "in_chans": 4}, (4, 64, 96)),
    ],
)
def test_arguments_of_a_model_that_does_not_remember_them(
    name: str, arguments: dict[str, Any], expected: tuple[int, int, int]
) -> None:
    model = timm.create_model(name, **arguments)
    assert input_size(model) == built_size(model) == example_size(model) == expected


def test_arguments_of_a_model_that_remembers_them() -> None:
    model = create_timm("botnet26t_256", img_size=96)
    assert input_size(model) == example_size(model) == (3, 96, 96)
    assert binarize.plan(model, "bnn").inputs == ((1, 3, 96, 96),)


class Picky(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch._assert(x.shape[-1] == 100, "")
        return self.conv(x)


def test_a_model_that_runs_at_no_size_says_so_once() -> None:
    with pytest.raises(TraceError) as caught:
        binarize.plan(Picky(), "bnn")
    text = str(caught.value)
    assert "1x3x224x224" in text
    assert "AssertionError at test_model_info.py, line " in text
    assert "torch._assert(x.shape[-1] == 100" in text
    assert text.count("example_inputs") == 1


@pytest.mark.slow
def test_a_model_of_timm_that_was_built_for_another_size_says_so_once() -> None:
    model = timm.create_model("botnet26t_256", img_size=96)
    with pytest.raises(TraceError) as caught:
        binarize.plan(model, "bnn")
    assert str(caught.value).count("give ") == 1
    assert "1x3x256x256" in str(caught.value)
    assert "AssertionError at " in str(caught.value)
