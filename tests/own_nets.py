"""The text of a file with a user's networks: a U-Net, a depth network, and one that returns several maps."""

from __future__ import annotations

from pathlib import Path

TEXT = '''
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


def block(inputs, outputs):
    layers = []
    for before in (inputs, outputs):
        conv = nn.Conv2d(before, outputs, 3, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    def __init__(self, outputs, width=8):
        super().__init__()
        self.down = nn.ModuleList([block(3, width), block(width, 2 * width), block(2 * width, 4 * width)])
        self.up = nn.ModuleList([block(6 * width, 2 * width), block(3 * width, width)])
        self.head = nn.Conv2d(width, outputs, 1)

    def forward(self, x):
        maps = []
        for level, part in enumerate(self.down):
            x = part(x if level == 0 else F.max_pool2d(x, 2))
            maps.append(x)
        for part, skip in zip(self.up, reversed(maps[:-1])):
            x = part(torch.cat([F.interpolate(x, scale_factor=2.0), skip], dim=1))
        return self.head(x)


def unet(num_classes, width=8):
    return UNet(num_classes, width)


class Depth(UNet):
    """Metres (N, H, W): a softplus head, bounded."""

    def __init__(self, max_depth, width=8):
        super().__init__(1, width)
        self.max_depth = max_depth

    def forward(self, x):
        return F.softplus(super().forward(x)).clamp_max(self.max_depth)[:, 0]


@dataclass
class Result:
    loss: Any
    logits: Any


class Several(UNet):
    """Scores of a quarter of the size, and something beside them."""

    def __init__(self, classes, kind):
        super().__init__(classes)
        self.kind = kind

    def forward(self, x):
        y = F.avg_pool2d(super().forward(x), 4)
        if self.kind == "tuple":
            return y.mean((1, 2, 3)), y
        if self.kind == "dict":
            return {"out": y, "aux": y[:, :1]}
        if self.kind == "result":
            return Result(None, y)
        return (y, y) if self.training else y
'''


def write(folder: Path) -> Path:
    """`nets.py` in a folder."""
    path = folder / "nets.py"
    path.write_text(TEXT)
    return path
