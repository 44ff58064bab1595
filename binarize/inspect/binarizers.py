"""Where a network turns activations into bits: its binarizers, trained or packed, and the bits they give."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from binarize.functional import levels_of
from binarize.layers import BinaryLayer
from binarize.layers.attention import BinaryProduct
from binarize.layers.quantizers import LevelForm, Quantizer
from binarize.runtime import PackedLayer
from binarize.runtime.thresholds import quantized, thresholds_of


@dataclass(frozen=True)
class Binarizer:
    """One place where activations become bits.

    Attributes:
        name: path of its layer; of a factor of binary attention, with `left` or `right` behind it.
        module: the layer (or product) that is called.
        argument: which argument of that call it quantizes.
        quantizer: of a layer in training; None for a packed one.
        dim: channel dimension of the input, 1 or -1; None for a factor of attention, which counts as one
            channel.
        bits: of one activation.
    """

    name: str
    module: nn.Module
    argument: int
    quantizer: Quantizer | None
    dim: int | None
    bits: int

    def codes(self, x: Tensor) -> Tensor:
        """The index of each activation's level, from the lowest: int64, shape of `x`; 0 and 1 for one bit."""
        if self.quantizer is None:
            return _packed_codes(self.module, x)
        if self.bits == 1:
            return self.quantizer.is_upper(x).long()
        form = self.quantizer.level_form()
        if not isinstance(form, LevelForm):
            raise TypeError(f"{self.name}: {form}")
        return _nearest(form.basis, form.signed, x)

    def per_channel(self, x: Tensor, images: int) -> Tensor | None:
        """Values (..., C, ...) as (images, positions, C); None where they cannot be split by image."""
        last = x.unsqueeze(-1) if self.dim is None else x.movedim(self.dim, -1)
        flat = last.reshape(-1, last.shape[-1])
        return flat.view(images, -1, flat.shape[-1]) if images and len(flat) % images == 0 else None


def find_binarizers(model: nn.Module) -> list[Binarizer]:
    """All binarizers of a network, in the order of definition, without those that do not state their bits."""
    return list(_found(model))


def _found(model: nn.Module) -> Iterator[Binarizer]:
    for name, module in model.named_modules():
        known: Any = module
        if isinstance(module, PackedLayer):
            spec = module.spec
            yield Binarizer(name, module, 0, None, spec.dim, spec.quantizer.planes)
        elif isinstance(module, BinaryLayer) and isinstance(module.quantizer, Quantizer):
            dim = -1 if isinstance(module, nn.Linear) else 1
            if _tells_bits(module.quantizer):
                yield Binarizer(name, known, 0, module.quantizer, dim, module.quantizer.planes)
        elif isinstance(module, BinaryProduct):
            for place, side in enumerate(("left", "right")):
                quantizer = getattr(module, side)
                if isinstance(quantizer, Quantizer) and _tells_bits(quantizer):
                    yield Binarizer(f"{name}.{side}", module, place, quantizer, None, quantizer.planes)


def _tells_bits(quantizer: Quantizer) -> bool:
    return quantizer.planes == 1 or isinstance(quantizer.level_form(), LevelForm)


def _packed_codes(layer: Any, x: Tensor) -> Tensor:
    data = layer.data()
    spec = data.spec.quantizer
    if spec.kind == "levels":
        return _nearest(data.vector("basis"), spec.signed, x)
    thresholds = thresholds_of(data, x)
    upper = quantized(x, thresholds._replace(midpoint=None, channel=None), data.spec.dim) > 0
    return upper.long()


def _nearest(basis: Tensor, signed: bool, x: Tensor) -> Tensor:
    """Thresholds lie between the levels; a number on one belongs to the upper level."""
    thresholds = levels_of(basis.detach(), signed=signed).thresholds.contiguous()
    return torch.bucketize(x.contiguous(), thresholds.to(x.dtype), right=True)
