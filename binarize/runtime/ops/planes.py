"""Planes of bits between two packed layers: what the kernels' epilogue makes of a map, in torch.

A plane is described by [N, C, H, W, groups, border_h, border_w]; its words lie as `native/binarize.h` says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_WORD = 32
_SLACK = 16
"""Words behind a plane that kernels may read."""


def plane_words(shape: Sequence[int]) -> int:
    """Words of a plane, with those behind it."""
    n, c, h, w, groups, border_h, border_w = shape
    return n * (h + 2 * border_h) * (w + 2 * border_w) * groups * -(-c // groups // _WORD) + _SLACK


def plane_of(y: Tensor, shape: Sequence[int], mul: Tensor | None, add: Tensor | None) -> Tensor:
    """The plane of the bits mul * y + add >= 0, flat int32.

    Args:
        y: (N, C, H, W).
        shape: of the plane.
        mul: (C,), or None for 1.
        add: (C,), or None for 0.
    """
    _, c, _, _, groups, border_h, border_w = shape
    y = y if mul is None else y * mul.view(1, -1, 1, 1)
    y = y if add is None else y + add.view(1, -1, 1, 1)
    bits = (y >= 0).movedim(1, -1).unflatten(-1, (groups, c // groups)).long()
    bits = F.pad(bits, (0, -(c // groups) % _WORD)).unflatten(-1, (-1, _WORD))
    words = (bits << torch.arange(_WORD)).sum(-1)
    words = F.pad(words, (0, 0, 0, 0, border_w, border_w, border_h, border_h)).flatten()
    words = torch.where(words >= 1 << 31, words - (1 << 32), words).int()
    return F.pad(words, (0, _SLACK))


def map_of(words: Tensor, shape: Sequence[int], mul: Tensor | None) -> Tensor:
    """A map (N, C, H, W) with these bits: mul * x + add is infinite, with the sign of the bit, for every add.

    Where `mul` is 0 the bit does not depend on x.
    """
    n, c, h, w, groups, border_h, border_w = shape
    plane = (n, h + 2 * border_h, w + 2 * border_w, groups, -(-c // groups // _WORD))
    inner = words[: math.prod(plane)].view(plane)[:, border_h : border_h + h, border_w : border_w + w]
    bits = (inner.unsqueeze(-1) >> torch.arange(_WORD)) & 1
    signs = (2.0 * bits.flatten(-2)[..., : c // groups] - 1).flatten(-2).movedim(-1, 1)
    if mul is None:
        return signs * torch.inf
    factor = mul.view(1, -1, 1, 1)
    return torch.where(factor == 0, 0.0, signs * factor.sign() * torch.inf)
