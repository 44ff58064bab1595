"""Float activations that binary networks use in place of ReLU; all work per channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binarize.layers.quantizers import channel_shape


def _prelu(x: Tensor, slope: Tensor, dim: int) -> Tensor:
    # F.prelu needs channels in dim 1; moving a dim copies nothing.
    return F.prelu(x, slope) if dim == 1 else F.prelu(x.movedim(-1, 1), slope).movedim(1, -1)


class ChannelPReLU(nn.Module):
    """PReLU with a slope per channel, init 0.25 (BNext, arXiv 2211.12933).

    Args:
        channels: C.
        dim: channel dimension, 1 or -1.
    """

    def __init__(self, channels: int, *, dim: int = 1) -> None:
        super().__init__()
        self._dim = dim
        self.weight = nn.Parameter(torch.full((channels,), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) or (N, ..., C) -> the same shape."""
        return _prelu(x, self.weight, self._dim)


class BiasPReLU(nn.Module):
    """PReLU(x + b0): a learnable bias, init 0, and a slope per channel, init 0.25.

    Args:
        channels: C.
        dim: channel dimension, 1 or -1.
        spatial: number of spatial dims.
    """

    def __init__(self, channels: int, *, dim: int = 1, spatial: int = 2) -> None:
        super().__init__()
        self._dim = dim
        self.b0 = nn.Parameter(torch.zeros(channel_shape(channels, dim, spatial)))
        self.weight = nn.Parameter(torch.full((channels,), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) or (N, ..., C) -> the same shape."""
        return _prelu(x + self.b0, self.weight, self._dim)


class RPReLU(BiasPReLU):
    """PReLU(x + b0) + b1 (ReActNet, arXiv 2003.03488, Eq. 2, with b0 = -gamma and b1 = zeta)."""

    def __init__(self, channels: int, *, dim: int = 1, spatial: int = 2) -> None:
        super().__init__(channels, dim=dim, spatial=spatial)
        self.b1 = nn.Parameter(torch.zeros(channel_shape(channels, dim, spatial)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) or (N, ..., C) -> the same shape."""
        return super().forward(x) + self.b1


class Maxout(nn.Module):
    """p * relu(x) - q * relu(-x) per channel, p init 1, q init 0.25 (AdaBin, arXiv 2208.08084, Eq. 13).

    Args:
        channels: C.
        dim: channel dimension, 1 or -1.
        spatial: number of spatial dims.
    """

    def __init__(self, channels: int, *, dim: int = 1, spatial: int = 2) -> None:
        super().__init__()
        self._shape = channel_shape(channels, dim, spatial)
        self.p = nn.Parameter(torch.ones(channels))
        self.q = nn.Parameter(torch.full((channels,), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) or (N, ..., C) -> the same shape."""
        return self.p.view(self._shape) * F.relu(x) - self.q.view(self._shape) * F.relu(-x)
