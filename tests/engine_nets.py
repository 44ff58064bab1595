"""Small networks that the engine's tests convert: each holds one difficulty."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Residual(nn.Module):
    """conv-BN-ReLU-conv-BN + x, ReLU; one ReLU for both places."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x
        return self.relu(y)


class ResNetLike(nn.Module):
    """Stem, two residual blocks, functional ReLU and dropout at the root, classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.block1 = Residual(16)
        self.down = nn.Conv2d(16, 24, 1, 2)
        self.block2 = Residual(24)
        self.mix = nn.Conv2d(24, 32, 1)
        self.fc = nn.Linear(32, 10)
        self.feature_info = [{"num_chs": 24, "reduction": 4}]

    def forward(self, x: Tensor) -> Tensor:
        x = self.block1(self.stem(x))
        x = self.block2(self.down(x))
        x = F.relu(self.mix(x))
        x = F.dropout(x, 0.5, self.training)
        return self.fc(x.mean((2, 3)))


class UNet(nn.Module):
    """Concatenations and a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.down = nn.Sequential(
            nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()
        )
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.leave = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.final = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.enter(x)
        b = self.up(self.down(a))
        return self.final(self.leave(torch.cat([a, b], 1)))


class DataDependent(nn.Module):
    """A block whose forward branches on values around one that does not."""

    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3, padding=1)
            self.bn = nn.BatchNorm2d(8)

        def forward(self, x: Tensor) -> Tensor:
            y = self.bn(self.conv(x))
            if float(y.detach().abs().max()) > 1e9:
                y = y / 2
            return y + x

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.gate = self.Gate()
        self.block = Residual(8)
        self.final = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.final(self.block(self.gate(self.stem(x))))


class Shared(nn.Module):
    """One convolution for two levels, and an encoder block behind another name."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.smooth = nn.Conv2d(8, 8, 3, padding=1)
        self.alias = self.smooth
        self.final = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.final(self.smooth(x) + self.alias(F.max_pool2d(x, 3, 1, 1)))


class Excited(nn.Module):
    """Squeeze-excite between a convolution and the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.reduce = nn.Conv2d(8, 4, 1)
        self.act = nn.ReLU()
        self.expand = nn.Conv2d(4, 8, 1)
        self.final = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.conv(x)
        s = self.expand(self.act(self.reduce(y.mean((2, 3), keepdim=True))))
        return self.final(x + y * s.sigmoid())
