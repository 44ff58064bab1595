"""From a trained binary layer to a packed one, or the reason why it cannot be one."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from binarize.graph.hooks import take_hooks
from binarize.layers import Piecewise
from binarize.runtime.layer import PackedLayer
from binarize.runtime.packing.describe import Refusal, describe
from binarize.runtime.packing.numbers import numbers_of
from binarize.runtime.spec import PackedSpec


def lower(layer: nn.Module) -> PackedLayer | Refusal:
    """The packed form of `layer` in evaluation mode; the layer is left untouched.

    Args:
        layer: a `BinaryLayer` on the CPU.
    """
    spec = describe(layer)
    if isinstance(spec, Refusal):
        return spec
    numbers = numbers_of(layer, spec)
    if isinstance(numbers, Refusal):
        return numbers
    packed = empty_packed(layer, spec)
    packed.bits, packed.vectors = numbers
    take_hooks(packed, layer)
    return packed


def empty_packed(layer: nn.Module, spec: PackedSpec) -> PackedLayer:
    """The packed layer of that spec, its numbers still to come, with a copy of what `layer` keeps."""
    known: Any = layer
    dtype = known.vectors.dtype if isinstance(layer, PackedLayer) else known.weight.dtype
    inner = None
    if spec.inner is not None:
        folds = spec.inner["kind"] == "piecewise"
        inner = Piecewise(known.inner, dtype, dim=spec.dim) if folds else copy.deepcopy(known.inner)
    packed = PackedLayer(
        spec,
        norm=copy.deepcopy(known.norm) if spec.norm is not None else None,
        inner=inner,
        dtype=dtype,
    )
    packed.float_bias = known.float_bias
    return packed
