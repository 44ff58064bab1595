"""Normalization of channels-last tensors."""

from __future__ import annotations

from typing import Any

import torch
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


def why_no_affine(norm: nn.Module) -> str | None:
    """Why a norm has no `affine_of`, as a sentence of the layer that holds it; None if it has one."""
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm):
        return f"its norm {type(norm).__name__} is not a BatchNorm"
    if norm.running_mean is None:
        return "its BatchNorm has no running statistics, so that a result depends on the rest of its batch"
    return None


def affine_of(norm: Any) -> tuple[Tensor, Tensor]:
    """Factor and constant of a batch norm in evaluation mode, (C,) float64, detached."""
    factor = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        factor = factor * norm.weight.detach().double()
    constant = -norm.running_mean.double() * factor
    return factor, constant if norm.bias is None else constant + norm.bias.detach().double()
