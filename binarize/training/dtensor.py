"""Tensors that FSDP split between processes, and whole ones, handled alike."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def is_split(tensor: Tensor) -> bool:
    """Whether each process holds a part of the tensor only."""
    return isinstance(tensor, DTensor)


def local_part(tensor: Tensor) -> Tensor:
    """This process's part of a split tensor, in the same memory; a whole tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gathered(tensor: Tensor) -> Tensor:
    """All parts of a split tensor; a whole tensor as it is. All processes have to call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def placed_like(value: Tensor, like: Tensor) -> Tensor:
    """A copy of a whole tensor with the device, dtype, memory format and split of another one.

    Args:
        value: whole, of the shape of `like`.
        like: split or whole.
    """
    if isinstance(like, DTensor):
        value = value.to(like.device, like.dtype)
        return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
    return torch.empty_like(like).copy_(value)
