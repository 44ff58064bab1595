"""A network that trains in a second, known to recipes as `small`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from binarize.networks.catalog import NETWORKS


class Small(nn.Module):
    def __init__(self, outputs: int, max_depth: float | None, drops: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            *drops,
        )
        self.classifier = nn.Conv2d(16, outputs, 1)
        self._max_depth = max_depth

    def forward(self, x: Tensor) -> Tensor:
        y = F.interpolate(self.classifier(self.encoder(x)), size=x.shape[2:], mode="bilinear")
        return y if self._max_depth is None else torch.sigmoid(y) * self._max_depth


class Tied(Small):
    """With a module of two names, and two layers that share their weight."""

    def __init__(self, outputs: int) -> None:
        super().__init__(outputs, None)
        first, second = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        second.weight = first.weight
        self.first, self.second, self.norm = first, second, nn.BatchNorm2d(16)
        self.again, self.norm_again = self.encoder[6], self.norm
        self.encoder.extend([self.first, self.norm, self.second, self.norm_again])


def small(encoder: str, task: str = "segmentation", num_classes: int = 2, max_depth: float = 10.0,
          pretrained: bool = False) -> nn.Module:  # fmt: skip
    if task == "depth":
        return Small(1, max_depth)
    return Small(num_classes, None)


def small_dropping(encoder: str, task: str = "segmentation", num_classes: int = 2,
                   pretrained: bool = False) -> nn.Module:  # fmt: skip
    return Small(num_classes, None, (nn.Dropout2d(0.2), DropPath(0.3), nn.Dropout(0.1)))


def small_tied(encoder: str, task: str = "segmentation", num_classes: int = 2,
               pretrained: bool = False) -> nn.Module:  # fmt: skip
    return Tied(num_classes)


for name, network in (("small", small), ("small-dropping", small_dropping), ("small-tied", small_tied)):
    if name not in NETWORKS:
        NETWORKS.add(name, network)


def values(**training: Any) -> dict[str, Any]:
    """A recipe of a few seconds, as plain values."""
    return {
        "data": {
            "name": "shapes",
            "options": {"size": [32, 32], "length": 24, "number": 3},
            "augmentation": {"size": [32, 32]},
            "evaluation": {"batch": 8},
        },
        "network": {"name": "small", "encoder": "none"},
        "method": {"name": "bidense"},
        "training": {"epochs": 3, "batch": 8, "lr": 3e-3, **training},
    }


def dropping(**training: Any) -> dict[str, Any]:
    """The same, of a network that draws random numbers."""
    return {**values(**training), "network": {"name": "small-dropping", "encoder": "none"}}
