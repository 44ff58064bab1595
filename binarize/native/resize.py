"""Bilinear interpolation on the way: the larger map is what kernels see, and is never stored."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from binarize.native import structs


@dataclass(frozen=True, kw_only=True)
class Resize:
    """How a map gets its size.

    Attributes:
        size: (H, W) of the larger map (or smaller: any size).
        align_corners: as `torch.nn.functional.interpolate` has it.
    """

    size: tuple[int, int]
    align_corners: bool

    def __call__(self, x: Tensor) -> Tensor:
        """(N, C, h, w) to (N, C, H, W), by torch."""
        return F.interpolate(x, size=self.size, mode="bilinear", align_corners=self.align_corners)

    def struct(self, x: Tensor) -> structs.Resize:
        """For the library, of the map (N, C, h, w)."""
        return structs.Resize(x.shape[2], x.shape[3], int(self.align_corners))
