"""Comparing what two networks compute."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def unlike_fresh(net: nn.Module) -> nn.Module:
    """Shift all vectors, parameters and buffers, a bit: an untrained norm would hide errors."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            if tensor.dim() == 1 and tensor.dtype.is_floating_point:
                tensor.add_(0.2 * torch.rand(tensor.shape, generator=generator))
    return net


def outputs_of(value: Any) -> list[Tensor]:
    """All tensors in an output, in order."""
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for item in items for tensor in outputs_of(item)]


def relative_difference(a: Tensor, b: Tensor) -> float:
    """Of `a` from `b`, by the largest number in `b`."""
    return float((a - b).detach().abs().max() / b.detach().abs().max().clamp_min(1e-12))
