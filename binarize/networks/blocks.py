"""Parts that decoders and heads are made of."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def resize(x: Tensor, like: Tensor, *, align_corners: bool = True) -> Tensor:
    """`x` (N, C, h, w) resized bilinearly to the height and width of `like` (N, *, H, W): (N, C, H, W)."""
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=align_corners)


def conv_norm_act(cin: int, cout: int, kernel: int, dilation: int = 1) -> list[tuple[str, nn.Module]]:
    """Steps of `sequential`: convolution without bias that keeps the size, batch norm, ReLU."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(cin, cout, kernel, padding=padding, dilation=dilation, bias=False)
    return [("conv", conv), ("norm", nn.BatchNorm2d(cout)), ("act", nn.ReLU())]


def sequential(*steps: tuple[str, nn.Module]) -> nn.Sequential:
    """A sequence of named modules."""
    block = nn.Sequential()
    for name, module in steps:
        block.add_module(name, module)
    return block
