"""Random images that have structure: smooth colours with noise on them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_COARSE = 8  # pixels of the random colours that are interpolated to an image
_GRAIN = 0.2  # share of noise


def random_images(shape: Sequence[int], seed: int) -> Tensor:
    """Images (N, C, H, W) of values from 0 to 1, the same ones for the same seed.

    Noise alone has hardly any signal behind a few averaging layers; errors of rounding look large there.
    """
    random = torch.Generator().manual_seed(seed)
    count, channels, height, width = shape
    coarse = torch.rand(count, channels, _COARSE, _COARSE, generator=random)
    smooth = F.interpolate(coarse, (height, width), mode="bilinear")
    return (1 - _GRAIN) * smooth + _GRAIN * torch.rand(count, channels, height, width, generator=random)
