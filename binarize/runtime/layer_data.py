"""A packed layer as data: what its reference and its kernels are made of."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass

import torch
from torch import Tensor

from binarize.errors import ConfigError
from binarize.layers import Bypass
from binarize.native.epilogue import Activation
from binarize.runtime.packing.bits import unpack_signs
from binarize.runtime.spec import PackedSpec


@dataclass(frozen=True, eq=False, kw_only=True)
class LayerData:
    """One packed layer, y = inner(norm(scale * P + offset * B + shift)) + bypass(x), without its modules.

    With weights of several planes, scale * P is the sum over all planes.

    Attributes:
        spec: everything but the numbers.
        bits: (weight_planes * ceil(weights / 8),) uint8: the weights' signs, plane after plane, output
            filters first (see `packing.bits`).
        vectors: (sum of `spec.vectors()`,): scale, offset, shift and the quantizer's parameters.
        inner: the activation in front of the bypass in the kernels' form; None where there is none, or a
            module computes it.
    """

    spec: PackedSpec
    bits: Tensor
    vectors: Tensor
    inner: Activation | None = None

    def vector(self, name: str) -> Tensor:
        """One of the vectors of `spec.vectors()`, a view of `vectors`."""
        start = 0
        for other, length in self.spec.vectors().items():
            if other == name:
                return self.vectors[start : start + length]
            start += length
        raise ConfigError(f"this layer has no vector {name!r}; it has {list(self.spec.vectors())}.")

    def channels(self, name: str, like: Tensor) -> Tensor:
        """A vector in the shape that broadcasts it over the channels of `like`."""
        return self.lined_up(self.vector(name), like)

    def signs(self, dtype: torch.dtype, plane: int = 0) -> Tensor:
        """The weights' signs, +1 and -1: (Cout, Cin / groups, *kernel), output filters first."""
        size = self.spec.plane_bytes
        return unpack_signs(self.bits[plane * size : (plane + 1) * size], self.spec.weight_shape, dtype)

    def scales(self) -> list[Tensor]:
        """(Cout,) for each plane of weights, views of `vectors`; a list: exporters take no tensor apart."""
        scale, count = self.vector("scale"), self.spec.out_channels
        return [scale[plane * count : (plane + 1) * count] for plane in range(self.spec.weight_planes)]

    def lined_up(self, vector: Tensor, like: Tensor) -> Tensor:
        """A vector of numbers per channel in the shape that broadcasts it over the channels of `like`."""
        return vector if self.spec.kind == "linear" else vector.view(1, -1, *(1,) * (like.dim() - 2))

    @property
    def bypass(self) -> Bypass | None:
        """The bypass, which has no parameters."""
        return _shared_bypass(self.spec)


def make_bypass(spec: PackedSpec) -> Bypass | None:
    """The bypass that a spec describes: a module without parameters or state."""
    if spec.bypass is None:
        return None
    return Bypass(
        spec.in_channels,
        spec.out_channels,
        stride=spec.stride,
        transposed=spec.kind == "transposed",
        fit=spec.bypass,  # type: ignore[arg-type] - checked where a spec is made
        dim=spec.dim,
    )


_shared_bypass = functools.lru_cache(maxsize=512)(make_bypass)


@functools.lru_cache(maxsize=512)
def spec_of_text(text: str) -> PackedSpec:
    """The spec that `text_of_spec` wrote.

    Raises:
        FormatError: for another text.
    """
    try:
        given = json.loads(text)
    except ValueError:
        given = None
    return PackedSpec.from_dict(given, "spec of a packed layer")


@functools.lru_cache(maxsize=512)
def text_of_spec(spec: PackedSpec) -> str:
    """JSON of a spec, for operators, whose arguments are tensors, numbers and text."""
    return json.dumps(spec.as_dict(), separators=(",", ":"))
