"""Which plan a model has, and which images it is used on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import binarize
from binarize.files import create_timm
from binarize.model_info import configured_size, converted_size, input_size, plan_of


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
