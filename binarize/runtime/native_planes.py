"""A packed layer of several bits on the native kernels: one binary convolution for each pair of planes.

A number's digits change at thresholds, so each plane of activations is made of the bits x >= t: those of all
thresholds at which its digit changes, combined by XOR. The border and the words behind a plane stay zero.
Every sum of a convolution is exact; scaled, they are added in the order of `binarize.runtime.reference`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from binarize.bounded_cache import BoundedCache
from binarize.functional import levels_of
from binarize.native.epilogue import Activation
from binarize.native.prepared import PreparedPack
from binarize.runtime.kernel_arguments import as_maps, back
from binarize.runtime.layer_data import LayerData
from binarize.runtime.made_of import place_of
from binarize.runtime.native_layer import Extras, NativeLayer, Prepared
from binarize.runtime.spec import PackedSpec, QuantizerSpec

_SHAPES = 8  # of maps that a layer remembers


class NativePlanes:
    """What the kernels need of a layer of several bits; called as a `NativeLayer`.

    Args:
        data: of a layer for which `kernel_support.why_not` is None; its tensors are copied.
        threads: of the kernels; None for as many as torch has.
        exact_scales: see `RuntimeOptions`.

    Attributes:
        data: see above.
        rounded: as of the single binary layers.
        whole: whether a call gives all of the layer; else torch does the rest after scale and shift.
        fused: whether the last convolution does what `extras` put behind the layer; else that is left to the
            caller.
    """

    def __init__(self, data: LayerData, *, threads: int | None = None, exact_scales: bool = True) -> None:
        spec = data.spec
        self.data, self.threads = data, threads
        self.linear = spec.kind == "linear"
        self.whole = spec.norm is None and (spec.inner is None or data.inner is not None)
        planes = [single_plane(data, plane) for plane in range(spec.weight_planes)]
        self._planes = [NativeLayer(one, threads=threads, exact_scales=exact_scales) for one in planes]
        self._shift = data.vector("shift").clone()
        self._levels: _Levels | None = None
        if spec.quantizer.kind == "levels":
            self._levels = _Levels(data.vector("basis"), signed=spec.quantizer.signed, threads=threads)
        self.fused = self._levels is not None and self.whole and data.inner is None and data.bypass is None
        last = self._planes[-1]
        self._known: BoundedCache[Any, tuple[Activation, Prepared]] = BoundedCache(_SHAPES)
        self._last = last.with_epilogue(dataclasses.replace(last.epilogue, add=self._shift))

    @property
    def rounded(self) -> bool:
        """Whether sums come from rounded tables."""
        return any(plane.rounded for plane in self._planes)

    def __call__(
        self, x: Tensor, output_size: Sequence[int] | None = None, extras: Extras | None = None
    ) -> Tensor | None:
        """See `NativeLayer.__call__`, and `fused`."""
        extras = extras or Extras()
        x = x if extras.resize is None else extras.resize(x)
        if self._levels is None:
            y = self._planes_of_sign(x, output_size, extras.sums_of_x)
        else:
            y = self._planes_of_levels(x, output_size, self._levels, extras if self.fused else None)
        if y is None or self.fused:
            return y
        data = self.data
        y = y + data.lined_up(self._shift, y)
        if not self.whole:
            return y
        if data.inner is not None:
            y = data.inner(y, data.spec.dim)
        return y if data.bypass is None else data.bypass(x, y.shape[2:], y)

    def _planes_of_sign(
        self, x: Tensor, output_size: Sequence[int] | None, sums_of_x: Tensor | None
    ) -> Tensor | None:
        """The sum of the scaled products of all planes, without the shift."""
        y: Tensor | None = None
        for plane in self._planes:
            y = plane(x, output_size, Extras(residual=y, sums_of_x=sums_of_x))
            if y is None:
                return None
        return y

    def _planes_of_levels(
        self, x: Tensor, output_size: Sequence[int] | None, levels: _Levels, extras: Extras | None
    ) -> Tensor | None:
        """The same for each plane of digits; with `extras`, the shift and what they say behind it."""
        maps = as_maps(x, linear=self.linear)
        first = self._planes[0].prepared(x.shape, output_size)
        groups = 1 if self._planes[0].depthwise else self.data.spec.groups
        words, factors = levels.words(maps, groups, first.border), levels.factors(len(maps))
        y: Tensor | None = None
        calls = [(plane, j) for plane in self._planes for j in range(len(words))]
        for plane, j in calls if extras is None else calls[:-1]:
            prepared = plane.prepared(x.shape, output_size)
            residual = None if y is None else back(y, x, linear=self.linear)
            y = plane.convolve(maps, prepared, words[j], factors[j], Extras(residual=residual))
        if extras is not None:
            prepared = self._prepared(x.shape, output_size, extras.second)
            extras = dataclasses.replace(extras, resize=None)
            y = self._last.convolve(maps, prepared, words[-1], factors[-1], extras, y)
        return None if y is None else back(y, x, linear=self.linear)

    def _prepared(
        self, shape: Sequence[int], output_size: Sequence[int] | None, second: Activation | None
    ) -> Prepared:
        """The last convolution, prepared once for each activation that a program puts behind it."""
        if second is None:
            return self._last.prepared(shape, output_size)
        arrays = (second.before, second.negative, second.positive, second.after)
        marks = tuple(None if t is None else place_of(t) for t in arrays)
        size = None if output_size is None else tuple(output_size)
        numbers = (second.kind, second.low, second.high, torch.get_num_threads())
        key = (tuple(shape), size, marks, numbers)
        found = self._known.get(key)
        if found is None:  # kept with its arrays: so no other ones have their memory
            made = self._last.prepared(shape, output_size, Extras(second=second))
            found = self._known.keep(key, (second, made))
        return found[1]


def single_plane(data: LayerData, plane: int) -> LayerData:
    """The binary layer of one plane of weights: scale and product alone, digits in the place of levels."""
    spec, size = data.spec, data.spec.plane_bytes
    quantizer = spec.quantizer
    if quantizer.kind == "levels":
        quantizer = QuantizerSpec(kind="sign" if quantizer.signed else "shifted_step")
    alone: PackedSpec = dataclasses.replace(
        spec, weight_planes=1, quantizer=quantizer, norm=None, inner=None, bypass=None
    )
    known = {name: data.vector(name) for name in spec.vectors()}
    known |= {"scale": data.scales()[plane], "shift": torch.zeros_like(data.vector("shift"))}
    unset = torch.zeros(spec.in_channels)
    vectors = torch.cat([known.get(name, unset) for name in alone.vectors()])
    return LayerData(spec=alone, bits=data.bits[plane * size : (plane + 1) * size].clone(), vectors=vectors)


class _Levels:
    """From floats to planes of digits.

    Args:
        basis: (K,) float32.
        signed: as in a `QuantizerSpec`.
        threads: of the kernels.
    """

    def __init__(self, basis: Tensor, *, signed: bool, threads: int | None) -> None:
        levels = levels_of(basis, signed=signed)
        self._basis, self._threads = basis.clone(), threads
        self._thresholds = levels.thresholds
        upper = levels.codes > 0  # (2^K, K)
        self._starts = upper[0].tolist()
        self._changes = (upper[1:] != upper[:-1]).t().tolist()
        self._packs: BoundedCache[Any, list[PreparedPack]] = BoundedCache(_SHAPES)
        self._factors: BoundedCache[int, list[Tensor]] = BoundedCache(_SHAPES)

    def factors(self, images: int) -> list[Tensor]:
        """The number of the basis for each plane, (N,)."""
        found = self._factors.get(images)
        return found or self._factors.keep(images, [u.repeat(images) for u in self._basis])

    def words(self, maps: Tensor, groups: int, border: tuple[int, int]) -> list[Tensor]:
        """The words of each plane of digits of maps (N, C, H, W)."""
        key = (tuple(maps.shape), groups, border, torch.get_num_threads())
        packs = self._packs.get(key) or self._packs.keep(key, self._prepare(maps.shape, groups, border))
        reached = [pack(maps)[0] for pack in packs]  # x >= t
        planes: list[Tensor] = []
        for start, changes in zip(self._starts, self._changes, strict=True):
            # all bits of the lowest level: those of zeros; a number of the basis below 0 has them
            plane = self._ones(maps.shape, groups, border) if start else torch.zeros_like(reached[0])
            for change, bits in zip(changes, reached, strict=True):
                if change:
                    plane.bitwise_xor_(bits)
            planes.append(plane)
        return planes

    def _ones(self, shape: Sequence[int], groups: int, border: tuple[int, int]) -> Tensor:
        """The words of a plane whose bits are all 1, but for its border."""
        pack = PreparedPack(shape, groups=groups, border=border, threads=self._threads)
        return pack(torch.zeros(tuple(shape)))[0]

    def _prepare(self, shape: Sequence[int], groups: int, border: tuple[int, int]) -> list[PreparedPack]:
        common: dict[str, Any] = {"groups": groups, "border": border, "threads": self._threads}
        channels = shape[1]
        return [
            PreparedPack(shape, add=(-threshold).repeat(channels), **common) for threshold in self._thresholds
        ]
