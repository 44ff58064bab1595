"""Classifiers of small images, 32x32 on CIFAR: the networks that papers on binary networks compare on.

Sources: ResNet-20 and 32, He et al., "Deep Residual Learning for Image Recognition" (arXiv 1512.03385),
Section 4.2, 0.27 and 0.46 M weights. ResNet-18 with a stem for small images, and VGG-Small (Zhang et al.,
LQ-Nets, arXiv 1807.10029), as in the published code of IR-Net (arXiv 1909.10788).

What was read there, and how it is here:

- ResNet-20, 32: conv 3x3 to 16 channels, three stages of 16, 32 and 64 channels of n = 3 or 5 blocks of two
  convolutions, mean over the map, a linear layer. Where size and width change, the shortcut is option A:
  every second pixel, and zero channels, as many in front as behind; it has no weights.
- ResNet-18: conv 3x3 to 64 channels without pooling, four stages of 64 to 512 channels of two blocks;
  shortcuts are convolutions 1x1 with a norm, which that code keeps in float (`keep: ["*.shortcut.*"]`).
- VGG-Small: six convolutions 3x3 of 128, 128, 256, 256, 512, 512 channels; behind each second one max pooling
  stands between convolution and norm; then one linear layer on 512x4x4 values.
- The first convolution and the linear layer stay in float: the default policy keeps stem and last layer.

Departures: these are the float networks, with ReLU; what a method puts around a binary layer (Hardtanh, a
bypass for each convolution, RPReLU) is the method's. IR-Net's norm between mean and linear layer is left
out, which He et al.'s network does not have. VGG-Small pools to a map of 4x4 whatever the size of the image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binarize.errors import ConfigError
from binarize.networks.blocks import sequential

SIZE = (32, 32)
"""(H, W) of the images that these networks are made for; others work too."""


class PaddedShortcut(nn.Module):
    """Option A of ResNet: every second pixel, and zero channels in front and behind.

    Args:
        cin: channels of the input.
        cout: of the result, larger by an even number.
    """

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.extra = (cout - cin) // 2

    def forward(self, x: Tensor) -> Tensor:
        """(N, cin, H, W) -> (N, cout, ceil(H / 2), ceil(W / 2))."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra, self.extra))


class BasicBlock(nn.Module):
    """Conv 3x3, norm, ReLU, conv 3x3, norm, plus the shortcut, ReLU.

    Args:
        cin: channels of the input.
        cout: of the result.
        stride: of the first convolution.
        padded: whether a shortcut between different maps is `PaddedShortcut`; else a convolution 1x1.
    """

    def __init__(self, cin: int, cout: int, stride: int, *, padded: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or cin != cout:
            conv = nn.Conv2d(cin, cout, 1, stride, bias=False)
            self.shortcut = (
                PaddedShortcut(cin, cout)
                if padded
                else sequential(("conv", conv), ("norm", nn.BatchNorm2d(cout)))
            )
        self.act2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, cin, H, W) -> (N, cout, H', W')."""
        y = self.act1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.act2(y + self.shortcut(x))


class CifarResNet(nn.Module):
    """A ResNet without pooling behind its stem.

    Args:
        widths: channels of each stage.
        blocks: of each stage.
        num_classes: outputs.
        padded: as of `BasicBlock`.
    """

    def __init__(self, widths: tuple[int, ...], blocks: int, num_classes: int, *, padded: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.act1 = nn.ReLU()
        stages = []
        cin = widths[0]
        for index, width in enumerate(widths):
            parts = []
            for block in range(blocks):
                stride = 2 if index and not block else 1
                parts.append(BasicBlock(cin, width, stride, padded=padded))
                cin = width
            stages.append(nn.Sequential(*parts))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(cin, num_classes)
        _start(self)
        self.img_size = SIZE
        self.binarize_spec: dict[str, Any] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> logits (N, classes)."""
        x = self.stages(self.act1(self.bn1(self.conv1(x))))
        return self.fc(torch.flatten(self.pool(x), 1))


class VGGSmall(nn.Module):
    """Six convolutions with pooling behind each second one, and a linear layer.

    Args:
        num_classes: outputs.
        width: channels of the first two convolutions; the others have two and four times as many.
    """

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        steps: list[tuple[str, nn.Module]] = []
        cin = 3
        for index, factor in enumerate((1, 1, 2, 2, 4, 4)):
            cout = factor * width
            steps.append((f"conv{index}", nn.Conv2d(cin, cout, 3, padding=1, bias=False)))
            if index % 2:
                steps.append((f"pool{index}", nn.MaxPool2d(2)))
            steps += [(f"bn{index}", nn.BatchNorm2d(cout)), (f"act{index}", nn.ReLU())]
            cin = cout
        self.features = sequential(*steps)
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.fc = nn.Linear(cin * 16, num_classes)
        _start(self)
        self.img_size = SIZE
        self.binarize_spec: dict[str, Any] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) of at least 32x32 -> logits (N, classes)."""
        return self.fc(torch.flatten(self.pool(self.features(x)), 1))


def _start(network: nn.Module) -> None:
    """He et al.'s start values for convolutions (arXiv 1502.01852), by their outputs."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def resnet20_cifar(num_classes: int = 10, width: int = 16) -> nn.Module:
    """ResNet-20, 0.27 M weights.

    Args:
        num_classes: outputs.
        width: channels of the first stage.

    Raises:
        ConfigError: a number below 1.
    """
    return _resnet("resnet20-cifar", 3, num_classes, width)


def resnet32_cifar(num_classes: int = 10, width: int = 16) -> nn.Module:
    """ResNet-32, 0.46 M weights; as `resnet20_cifar`."""
    return _resnet("resnet32-cifar", 5, num_classes, width)


def resnet18_cifar(num_classes: int = 10, width: int = 64) -> nn.Module:
    """ResNet-18 for small images, 11.2 M weights; as `resnet20_cifar`."""
    widths = (width, 2 * width, 4 * width, 8 * width)
    return _built(
        "resnet18-cifar", num_classes, width, lambda: CifarResNet(widths, 2, num_classes, padded=False)
    )


def vgg_small(num_classes: int = 10, width: int = 128) -> nn.Module:
    """VGG-Small, 4.7 M weights; as `resnet20_cifar`."""
    return _built("vgg-small", num_classes, width, lambda: VGGSmall(num_classes, width))


def _resnet(name: str, blocks: int, num_classes: int, width: int) -> nn.Module:
    widths = (width, 2 * width, 4 * width)
    return _built(name, num_classes, width, lambda: CifarResNet(widths, blocks, num_classes, padded=True))


def _built(name: str, num_classes: int, width: int, build: Callable[[], Any]) -> nn.Module:
    """The network, with what is needed to build it again; its numbers are checked first."""
    for key, value in (("num_classes", num_classes), ("width", width)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{name}: {key}={value!r}; expected an integer of at least 1.")
    network = build()
    network.binarize_spec = {
        "source": "networks",
        "name": name,
        "kwargs": {"num_classes": num_classes, "width": width},
    }
    return network


CIFAR_NETWORKS = {
    "resnet20-cifar": resnet20_cifar,
    "resnet32-cifar": resnet32_cifar,
    "resnet18-cifar": resnet18_cifar,
    "vgg-small": vgg_small,
}
"""By name."""
