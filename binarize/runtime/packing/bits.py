"""Signs as bits: 1 for +1 and 0 for -1, eight to a byte, the first in the lowest bit."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def pack_signs(positive: Tensor) -> Tensor:
    """Bits of a tensor of any shape, taken in row-major order.

    Args:
        positive: bool, any shape, on the CPU; True where the sign is +1.

    Returns:
        (ceil(n / 8),) uint8: element i is bit i mod 8 (value 2^(i mod 8)) of byte i div 8. Bits behind the
        last element are 0.
    """
    return torch.from_numpy(np.packbits(positive.numpy(), axis=None, bitorder="little"))


def unpack_signs(bits: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The inverse, as +1 and -1.

    Args:
        bits: uint8, as `pack_signs` gives them.
        shape: of the result; its elements are no more than there are bits.
        dtype: of the result.
    """
    count = 1
    for size in shape:
        count *= size
    flat = (bits.unsqueeze(1) >> _places(bits.device)).bitwise_and_(1).view(-1)[:count]
    return flat.to(dtype).mul_(2).sub_(1).view(shape)


def _places(device: torch.device) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=device)
