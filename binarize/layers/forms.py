"""What activation quantizers say that they compute, for packed layers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from binarize.functional import levels_of


class SignForm(NamedTuple):
    """What a quantizer computes, as factor * sign(scale * x + shift), or factor * that in {0, 1}.

    Attributes:
        scale: one value per input channel, in a shape that broadcasts over the input, or one
            for all; None for 1.
        shift: likewise; None for 0.
        factor: one number above 0; None for 1.
        unsigned: the values are 0 and `factor`, the latter where the sign is +1.
    """

    scale: Tensor | None = None
    shift: Tensor | None = None
    factor: Tensor | None = None
    unsigned: bool = False

    def of(self, x: Tensor) -> Tensor:
        """The quantized `x`."""
        z = x if self.scale is None else x * self.scale.to(x.dtype)
        z = z if self.shift is None else z + self.shift.to(x.dtype)
        y = torch.where(z >= 0, 1.0, 0.0 if self.unsigned else -1.0).to(x.dtype)
        return y if self.factor is None else y * self.factor.to(x.dtype)


class LevelForm(NamedTuple):
    """What a quantizer of several bits computes: the nearest level (`binarize.functional.levels`).

    Attributes:
        basis: (K,), of K bits.
        signed: whether the digits of a level are -1 and +1, not 0 and 1.
    """

    basis: Tensor
    signed: bool

    def of(self, x: Tensor) -> Tensor:
        """The quantized `x`."""
        return levels_of(self.basis, signed=self.signed).nearest(x)
