"""One image at a time, and maps of one pixel: BatchNorm has nothing to learn from."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from binarize.errors import ConfigError
from binarize.training.step import training_output


def test_the_norm_that_refuses_its_input_is_named() -> None:
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), pooled).train()
    with pytest.raises(ConfigError, match=r"2\.2: BatchNorm cannot learn from one image .* training\.batch"):
        training_output(net, torch.randn(1, 3, 8, 8))
    assert training_output(net, torch.randn(2, 3, 8, 8)).shape == (2, 4, 1, 1)
