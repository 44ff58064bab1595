"""A packed layer on the native kernels: one pass to pack the signs, one to convolve them.

Everything behind the product (scale, norm, inner activation, bypass, and what a program puts behind it)
happens where the sums are made, before they are written for the first time.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from binarize.bounded_cache import BoundedCache
from binarize.conv_sizes import same_pads
from binarize.functional import Geometry
from binarize.functional.dab import groups_to_channels
from binarize.native.epilogue import Activation, Epilogue, Tail
from binarize.native.packing import pack_depthwise, pack_scaled, pack_weights
from binarize.native.prepared import PreparedConv, PreparedPack
from binarize.native.transposed import conv_transposed, pack_transposed
from binarize.native.types import BitPlane, PackedWeights, Resize, TransposedWeights
from binarize.runtime.kernel_arguments import (
    as_maps,
    back,
    check_input,
    doubled,
    is_finite,
    quantizer_arguments,
    scale_and_shift,
)
from binarize.runtime.kernel_support import is_depthwise, per_channel, scale_groups, scales_differ, why_exact
from binarize.runtime.layer_data import LayerData
from binarize.runtime.shapes import extra_of

_SHAPES = 8  # of maps that a layer remembers


class Prepared(NamedTuple):
    """What calls for maps of one shape have in common.

    Attributes:
        pack: from floats to signs.
        conv: from signs to the layer's result; None for a transposed convolution, which is several.
        size: of the result, (H, W).
        border: of the plane.
        resize: of the maps that are given, before anything else.
        halved: what the bypass does to the maps, if the kernel can do it.
    """

    pack: PreparedPack
    conv: PreparedConv | None
    size: tuple[int, int]
    border: tuple[int, int]
    resize: Resize | None
    halved: Resize | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extras:
    """What a program adds to a layer; the layer alone has none of it.

    Attributes:
        resize: of the input, before anything else.
        second: activation behind the bypass.
        residual: of the result's shape; is added last.
        sums_of_x: (N, Cin), the sums of the (resized) input over positions, for a DAB; None computes them.
        sums: (N, Cout), is overwritten by the sums of the result over positions.
        tail: 1x1 convolution of the result, which is not stored then.
    """

    resize: Resize | None = None
    second: Activation | None = None
    residual: Tensor | None = None
    sums_of_x: Tensor | None = None
    sums: Tensor | None = None
    tail: Tail | None = None


class NativeLayer:
    """What the kernels need of one layer: packed weights, constants, and calls for each shape of maps.

    Args:
        data: of a layer for which `kernel_support.why_not` is None; its tensors are copied.
        threads: of the kernels; None for as many as torch has.
        exact_scales: see `RuntimeOptions`; tables are exact anyhow where `kernel_support.why_exact` says why.

    Attributes:
        data: see above.
        exact: whether scales per channel, if there are any, are not rounded.
        direct: whether the bypass takes the input as it is.
        whole: whether the kernels do all of the layer; else torch does the rest after scale and shift.
    """

    def __init__(self, data: LayerData, *, threads: int | None = None, exact_scales: bool = True) -> None:
        spec = data.spec
        self.data, self.threads = data, threads
        self.exact = exact_scales or why_exact(spec) is not None
        self.linear = spec.kind == "linear"
        bypass = data.bypass
        self.direct = bypass is not None and (not bypass.stride or bypass.keeps_positions)
        self.whole = spec.norm is None and (spec.inner is None or data.inner is not None)
        self.doubled = doubled(data)
        """Channels of the plane, where they are others than the input's."""
        self.depthwise = is_depthwise(spec)
        self.scaled = False
        self.transposed: TransposedWeights | None = None
        self.weights: PackedWeights | None = None
        epilogue = scale_and_shift(data)
        if self.whole and data.inner is not None:
            epilogue = dataclasses.replace(epilogue, first=data.inner)
        self.epilogue = epilogue.owned()
        self._known: BoundedCache[Any, Prepared] = BoundedCache(_SHAPES)
        self._pack_weights()

    def with_epilogue(self, epilogue: Epilogue) -> NativeLayer:
        """The same layer, of the same packed weights, with another epilogue."""
        twin = copy.copy(self)
        twin.epilogue, twin._known = epilogue.owned(), BoundedCache(_SHAPES)
        return twin

    @property
    def rounded(self) -> bool:
        """Whether sums are of rounded scales (`kernel_support.rounding_error`)."""
        return self.scaled and not self.exact

    def _pack_weights(self) -> None:
        data, spec = self.data, self.data.spec
        signs = data.signs(torch.float32)
        signs = signs if self.doubled is None else signs.index_select(1, self.doubled)
        if spec.kind == "linear":
            signs, stride, dilation = signs[..., None, None], (1, 1), (1, 1)
            pads: tuple[tuple[int, int], ...] = ((0, 0), (0, 0))
        else:
            flat = len(spec.kernel) == 1
            signs = signs.unsqueeze(2) if flat else signs
            stride = (1, *spec.stride) if flat else spec.stride
            dilation = (1, *spec.dilation) if flat else spec.dilation
            pads = ((0, 0), *spec.padding) if flat else spec.padding
        self.stride, self.dilation, self.kernel = stride, dilation, tuple(signs.shape[2:])
        shape: dict[str, Any] = {"stride": stride, "dilation": dilation}
        padding = (pads[0][0], pads[1][0], pads[0][1], pads[1][1])
        if spec.kind == "transposed":
            filters = Geometry((), (), (), spec.groups, True).filters_back(signs).contiguous()
            low = tuple(low for low, _ in pads)
            self.transposed = pack_transposed(filters, padding=low, groups=spec.groups, **shape)
        elif self.depthwise:
            self.weights = pack_depthwise(signs, padding=padding, **shape)
        elif per_channel(data.spec):
            self.scaled = True
            self.weights = pack_scaled(signs, padding=padding, groups=spec.groups, **shape)
        else:
            given = {"groups": spec.groups, "scale_groups": scale_groups(spec)}
            self.weights = pack_weights(signs, padding=padding, **given, **shape)

    def __call__(
        self, x: Tensor, output_size: Sequence[int] | None = None, extras: Extras | None = None
    ) -> Tensor | None:
        """The layer, or scale and shift of it where it is not `whole`; None if scales are not finite.

        Scales per channel are computed from tables of whole numbers, which cannot hold a NaN.

        Args:
            x: float32 on the CPU, (N, Cin, ...) or (..., Cin).
            output_size: of a transposed convolution.
            extras: only of a layer that is `whole`.
        """
        extras = extras or Extras()
        if self.depthwise and scales_differ(self.data.spec) and len(x) > 1 and x.dim() > 2:
            # a scale per input channel is one per output channel here, but it differs between images
            return self._one_by_one(x, extras)
        prepared = self.prepared(x.shape, output_size, extras)
        maps = as_maps(x, linear=self.linear)
        plane_maps = maps if self.doubled is None else maps.index_select(1, self.doubled)
        words, scales = prepared.pack(plane_maps, extras.sums_of_x)
        if self.scaled and scales is not None and not is_finite(scales):
            return None
        y = self.convolve(maps, prepared, words, scales, extras)
        return back(y, x, linear=self.linear)

    def _one_by_one(self, x: Tensor, extras: Extras) -> Tensor | None:
        parts: list[Tensor] = []
        for i in range(len(x)):
            image = slice(i, i + 1)
            given = {
                name: None if (t := getattr(extras, name)) is None else t[image]
                for name in ("residual", "sums_of_x", "sums")
            }
            part = self(x[image], None, dataclasses.replace(extras, **given))
            if part is None:
                return None
            parts.append(part)
        return torch.cat(parts)

    def prepared(
        self, shape: Sequence[int], output_size: Sequence[int] | None = None, extras: Extras | None = None
    ) -> Prepared:
        """Calls for inputs of this shape.

        Args:
            shape: of the input as the network gives it.
            output_size: of a transposed convolution.
            extras: their `resize` and `second` are prepared.

        Raises:
            ConfigError: an input that the layer does not take.
        """
        wanted = None if output_size is None else tuple(output_size)
        resize, second = (None, None) if extras is None else (extras.resize, extras.second)
        if second is not None:  # of one program, which prepares it once
            return self._prepare(shape, wanted, resize, second)
        key = (tuple(shape), wanted, resize, torch.get_num_threads())
        found = self._known.get(key)
        return self._known.keep(key, self._prepare(shape, wanted, resize, None)) if found is None else found

    def convolve(
        self,
        maps: Tensor,
        prepared: Prepared,
        words: Tensor,
        scales: Tensor | None,
        extras: Extras,
        added: Tensor | None = None,
    ) -> Tensor:
        """The layer behind its quantizer.

        Args:
            maps: the layer's input, (N, Cin, H, W).
            prepared: for maps of its shape.
            words: of the plane of signs.
            scales: of each image, (N,), and what else a DAB gives.
            extras: without `resize`, which was done.
            added: (N, Cout, H, W), in the bypass's place in a layer without one.
        """
        data, conv = self.data, prepared.conv
        bypass, resize = added, None
        if self.whole and added is None:
            bypass, resize = self.bypass_of(maps, prepared, lambda x: self.bypass_map(x, prepared))
        residual = None if extras.residual is None else as_maps(extras.residual, linear=self.linear)
        given: dict[str, Any] = {"bypass": bypass, "residual": residual, "tail": extras.tail}
        if conv is None:
            return self._transposed(maps, prepared, words, scales, given, extras)
        given |= {"resize": resize, "sums": extras.sums}
        if self.scaled:
            return conv(words, alpha=scales, **given)
        if self.depthwise and scales is not None and scales_differ(data.spec):
            if data.spec.quantizer.groups:
                scales = groups_to_channels(scales, maps.shape[1], data.spec.quantizer.groups, 1)
            given = {name: given[name] for name in ("bypass", "resize", "residual", "sums")}
            offset = data.vector("offset") * scales[0] if data.spec.offset else None
            return conv(words, mul=self.epilogue_mul() * scales[0], offset=offset, **given)
        return conv(words, sample_scale=scales, **given)

    def epilogue_mul(self) -> Tensor:
        """The factor of each filter's sums."""
        mul = self.epilogue.mul
        return self.data.vector("scale") if mul is None else mul

    def bypass_of(
        self, maps: Tensor, prepared: Prepared, make: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor | None, Resize | None]:
        """The map that is added, and how the kernel brings it to the result's size.

        Args:
            maps: the layer's input.
            prepared: for maps of its shape.
            make: `bypass_map`, called where the kernel cannot make the bypass itself.
        """
        if self.data.bypass is None:
            return None, None
        if self.direct:
            return maps, prepared.resize
        if prepared.resize is None and prepared.halved is not None:
            return maps, prepared.halved
        return make(maps), None

    def bypass_map(self, maps: Tensor, prepared: Prepared) -> Tensor:
        """The bypass at the result's positions, (N, Cin, H, W), computed by torch."""
        bypass = self.data.bypass
        if bypass is None:
            raise RuntimeError("no bypass")
        maps = maps if prepared.resize is None else prepared.resize(maps)
        if len(bypass.stride) == 1:
            return bypass.at(maps.squeeze(2), prepared.size[1:]).unsqueeze(2)
        return bypass.at(maps, prepared.size)

    def _prepare(
        self,
        given_shape: Sequence[int],
        output_size: Sequence[int] | None,
        resize: Resize | None,
        second: Activation | None,
    ) -> Prepared:
        data, spec = self.data, self.data.spec
        example = torch.empty(tuple(given_shape), device="meta")
        check_input(data, example)
        maps = tuple(as_maps(example, linear=self.linear).shape)
        if resize is not None:
            maps = (*maps[:2], *resize.size)
        size = self._out_size(maps, output_size)
        weights = self.weights
        if weights is not None and spec.same:
            weights = dataclasses.replace(weights, padding=self._same(maps))
        if weights is not None:
            border = weights.border
        elif self.transposed is not None:
            border = self.transposed.border(maps[2], maps[3], size)
        else:
            raise RuntimeError("no weights")
        groups = 1 if self.depthwise else spec.groups
        shape = (maps[0], len(self.doubled), *maps[2:]) if self.doubled is not None else maps
        quantizer = quantizer_arguments(data)
        pack = PreparedPack(
            shape, groups=groups, border=border, resize=resize, threads=self.threads, **quantizer
        )
        if weights is None:
            return Prepared(pack, None, size, border, resize, None)
        epilogue = self.epilogue if second is None else dataclasses.replace(self.epilogue, second=second)
        conv = PreparedConv(weights, pack.plane, epilogue, size, exact=self.exact, threads=self.threads)
        return Prepared(pack, conv, size, border, resize, self._halved(maps, size))

    def _transposed(
        self,
        maps: Tensor,
        prepared: Prepared,
        words: Tensor,
        scales: Tensor | None,
        given: dict[str, Any],
        extras: Extras,
    ) -> Tensor:
        if self.transposed is None:
            raise RuntimeError("no weights")
        images, channels, height, width = maps.shape
        plane = BitPlane(
            words=words[: prepared.pack.words],
            images=images,
            height=height,
            width=width,
            channels=channels if self.doubled is None else len(self.doubled),
            groups=self.data.spec.groups,
            border=prepared.border,
        )
        if extras.second is not None:
            given["second"] = extras.second
        epilogue: Epilogue = dataclasses.replace(
            self.epilogue, sample_scale=scales, sums=extras.sums, **given
        )
        return conv_transposed(plane, self.transposed, epilogue, out_size=prepared.size, threads=self.threads)

    def _halved(self, maps: Sequence[int], size: tuple[int, int]) -> Resize | None:
        """The bypass as an interpolation: to half the size, that is the mean of 2x2 positions.

        The same bits, but that no sum can overflow.
        """
        bypass = self.data.bypass
        halves = tuple(maps[2:]) == (2 * size[0], 2 * size[1])
        halves = halves and bypass is not None and bypass.stride == (2, 2)
        if not halves or self.transposed is not None:
            return None
        return Resize(size=size, align_corners=False)

    def _out_size(self, maps: Sequence[int], output_size: Sequence[int] | None) -> tuple[int, int]:
        spec = self.data.spec
        height, width = maps[2:]
        if self.transposed is not None:
            return self.transposed.out_size(height, width, extra_of(spec, output_size, (height, width)))
        if spec.same:
            h, w = (-(-n // s) for n, s in zip((height, width), self.stride, strict=True))
            return h, w
        if self.weights is None:
            raise RuntimeError("no weights")
        return self.weights.out_size(height, width)

    def _same(self, maps: Sequence[int]) -> tuple[int, int, int, int]:
        """Padding by the size of the input, as TensorFlow's SAME: (top, left, bottom, right)."""
        (top, bottom), (left, right) = same_pads(maps[2:], self.kernel, self.stride, self.dilation)
        return top, left, bottom, right
