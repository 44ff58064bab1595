"""Normalization of channels-last tensors."""

from __future__ import annotations

from torch import Tensor, nn


class ChannelLastBatchNorm(nn.BatchNorm1d):
    """BatchNorm over the last dim of (N, ..., C), each position counting as one sample."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, ..., C) -> the same shape."""
        return super().forward(input.reshape(-1, input.shape[-1])).reshape(input.shape)


def batch_norm(channels: int, *, dim: int, spatial: int) -> nn.Module:
    """A fresh BatchNorm for (N, C, ...) with `spatial` spatial dims, or for channels-last tensors."""
    if dim == -1:
        return ChannelLastBatchNorm(channels)
    return {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[spatial](channels)
