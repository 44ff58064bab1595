"""A packed layer on the native kernels: thresholds from statistics, one pass to pack, one to convolve.

Everything behind the product (scale, norm, inner activation, bypass, and the activation of the network that
follows) happens where the sums are made, before they are written for the first time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from binarize.bounded_cache import BoundedCache
from binarize.conv_sizes import same_pads
from binarize.functional import Geometry
from binarize.native.epilogue import Tail
from binarize.native.layer import PreparedLayer
from binarize.native.packing import pack_depthwise, pack_scaled, pack_weights
from binarize.native.prepared import PreparedConv, PreparedPack
from binarize.native.tensors import channels_last
from binarize.native.transposed import conv_transposed, pack_transposed
from binarize.native.types import BitPlane, PackedWeights, Resize, TransposedWeights
from binarize.runtime.lazy import Behind, Interpolated, ordinary, unchanged
from binarize.runtime.made_of import made_of
from binarize.runtime.questions import activation_of, can_interpolate, is_depthwise, per_channel
from binarize.runtime.statistics import hand_over, taken
from binarize.runtime.terms import (
    as_maps,
    back,
    check_input,
    dab_of,
    doubled,
    is_finite,
    scale_and_shift,
    steps_of,
    tail_of,
)

if TYPE_CHECKING:
    from binarize.runtime.packed import PackedLayer
    from binarize.runtime.pointwise import PointwiseConv2d

_SHAPES = 8  # of maps that a layer remembers


class _Prepared(NamedTuple):
    """Calls for maps of one shape.

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


class _Signs(NamedTuple):
    """An input as the kernels read it.

    Attributes:
        x: the input itself, or the smaller map that stands for it.
        maps: the same as (N, C, H, W).
        prepared: calls for maps of this shape.
        words: of the bit plane.
        scales: of the DAB, if it has any.
    """

    x: Tensor
    maps: Tensor
    prepared: _Prepared
    words: Tensor
    scales: Tensor | None


class Kernels:
    """What the kernels need of one layer.

    Args:
        layer: for which `why_not` is None.
    """

    def __init__(self, layer: PackedLayer) -> None:
        spec = layer.spec
        self.layer = layer
        self.linear = spec.kind == "linear"
        self.maps = len(spec.kernel) == 2
        self.way = layer.bypass
        self.direct = self.way is not None and (not self.way.stride or self.way.keeps_positions)
        """Whether the bypass takes the input as it is."""
        signs = layer.signs(torch.float32)
        self.doubled = doubled(layer)
        """Channels of the plane, where they are others than the input's."""
        signs = signs if self.doubled is None else signs.index_select(1, self.doubled)
        self.depthwise = False
        self.scaled = False
        self.transposed: TransposedWeights | None = None
        self.weights: PackedWeights | None = None
        self._known: BoundedCache[Any, _Prepared] = BoundedCache(_SHAPES)
        self._ready: BoundedCache[Any, Any] = BoundedCache(_SHAPES)
        """Calls of `PreparedLayer`, or None where there is none."""
        self._made_of = made_of(layer)
        inner, after = activation_of(layer.inner), activation_of(layer.after)
        self.whole = layer.norm is None and inner is not None and after is not None
        """Whether the kernel does all of the layer; else torch goes on behind scale and shift."""
        self.epilogue = scale_and_shift(layer)
        if self.whole and inner is not None and after is not None:
            self.epilogue = dataclasses.replace(self.epilogue, first=inner, second=after)
        self.epilogue = self.epilogue.owned()
        if spec.kind == "linear":
            signs, stride, dilation = signs[..., None, None], (1, 1), (1, 1)
            pads: tuple[tuple[int, int], ...] = ((0, 0), (0, 0))
        else:
            flat = len(spec.kernel) == 1
            signs = signs.unsqueeze(2) if flat else signs
            stride = (1, *spec.stride) if flat else spec.stride
            dilation = (1, *spec.dilation) if flat else spec.dilation
            pads = ((0, 0), *spec.padding) if flat else spec.padding
        self.stride, self.dilation, self.pads = stride, dilation, pads
        self.kernel = tuple(signs.shape[2:])
        shape: dict[str, Any] = {"stride": stride, "dilation": dilation}
        padding = (pads[0][0], pads[1][0], pads[0][1], pads[1][1])
        if spec.kind == "transposed":
            back = Geometry((), (), (), spec.groups, True).filters_back(signs).contiguous()
            self.transposed = pack_transposed(
                back, padding=tuple(low for low, _ in pads), groups=spec.groups, **shape
            )
            return
        self.depthwise = is_depthwise(layer)
        if self.depthwise:
            self.weights = pack_depthwise(signs, padding=padding, **shape)
        elif per_channel(layer):
            self.scaled = True
            self.weights = pack_scaled(signs, padding=padding, groups=spec.groups, **shape)
        else:
            self.weights = pack_weights(signs, padding=padding, groups=spec.groups, **shape)

    def __call__(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """As `PackedLayer.forward`: the whole layer, and the activation that it took over."""
        if output_size is None and type(x) is Tensor and (y := self.at_once(x)) is not None:
            return y
        if self.depthwise and per_channel(self.layer) and len(x) > 1 and x.dim() > 2:
            # a scale per input channel is one per output channel here, but it differs between images
            return torch.cat([self(part) for part in ordinary(x).split(1)])
        return self._result(self._signs(x, output_size))

    def current(self) -> bool:
        """Whether the tensors that this was made of are where and what they were; else make it anew."""
        try:
            for table, name, place, version in self._made_of:
                tensor = table[name]
                if tensor.data_ptr() != place or (version is not None and tensor._version != version):
                    return False
        except (KeyError, AttributeError, RuntimeError):  # another kind of tensor, or none
            return False
        return True

    def at_once(self, x: Tensor) -> Tensor | None:
        """The result in one call of the library; None where that does not go.

        Args:
            x: float32 on the CPU.
        """
        key = (x.shape, x.stride())
        ready = self._ready.get(key, self)
        if ready is self:
            ready = self._ready.keep(key, self._one_call(x))
        if ready is None:
            return None
        layer = self.layer
        maps = x if self.maps else as_maps(x, linear=self.linear)
        sums_of_x = None if layer.sums_from is None else taken(layer.sums_from, maps)
        if layer.sums_for is None:
            y = ready(maps, sums_of_x)
        else:
            sums = torch.empty(len(maps), layer.spec.out_channels, dtype=torch.float32, device="cpu")
            y = ready(maps, sums_of_x, sums)
            if y is not None:
                hand_over(layer.sums_for, y, sums)
        return y if self.maps or y is None else back(y, x, linear=self.linear)

    def _one_call(self, x: Tensor) -> PreparedLayer | None:
        """The call for inputs of the shape and strides of this one, if there can be one."""
        alone = self.depthwise and per_channel(self.layer)
        if not x.numel() or not self.whole or self.transposed is not None or (alone and len(x) > 1):
            return None
        if self.doubled is not None:
            return None
        prepared = self._prepared_for(x, None, None)
        maps, way = as_maps(x, linear=self.linear), self.way
        if prepared.conv is None or not prepared.pack.fits(maps):
            return None
        if way is not None and (
            (not self.direct and prepared.halved is None) or channels_last(maps) is not maps
        ):
            return None
        return PreparedLayer(
            prepared.pack, prepared.conv, maps, bypass=way is not None, resize=prepared.halved
        )

    def behind(self, x: Tensor) -> Behind:
        """The same, of a layer that does all of its work here, when somebody wants it."""
        signs = self._signs(x, None)
        check = unchanged(signs.x)

        def make(conv: PointwiseConv2d | None = None) -> Tensor:
            check()
            return self._result(signs, conv)

        prepared = signs.prepared
        return Behind.of((len(x), self.layer.spec.out_channels, *prepared.size), make, through=make)

    def _prepared_for(self, x: Tensor, output_size: Sequence[int] | None, resize: Resize | None) -> _Prepared:
        wanted = None if output_size is None else tuple(output_size)
        key = (x.shape, wanted, resize, torch.get_num_threads())
        prepared = self._known.get(key)
        if prepared is None:
            check_input(self.layer, x)
            maps = as_maps(x, linear=self.linear)
            prepared = self._known.keep(key, self._prepare(maps, output_size, resize))
        return prepared

    def _signs(self, x: Tensor, output_size: Sequence[int] | None) -> _Signs:
        resize: Resize | None = None
        if type(x) is Interpolated and x.waits and can_interpolate(self.layer):
            x, resize = x.small, x.resize
        else:
            x = ordinary(x)
        prepared = self._prepared_for(x, output_size, resize)
        maps = as_maps(x, linear=self.linear)
        link = self.layer.sums_from if resize is None else None
        sums = None if link is None else taken(link, maps)
        words, scales = prepared.pack(self._plane_maps(maps), sums)
        return _Signs(x, maps, prepared, words, scales)

    def _result(self, signs: _Signs, conv: PointwiseConv2d | None = None) -> Tensor:
        """What is made of signs; with `conv`, its result (for layers that the kernel does all of)."""
        layer, (x, maps, prepared, words, scales) = self.layer, signs
        resize = prepared.resize
        if (
            self.scaled and scales is not None and not is_finite(scales)
        ):  # tables of whole numbers know no NaN
            y = layer.followed(layer.reference(x if resize is None else resize(x)))
            return y if conv is None else conv.convolve(y)
        tail = None if conv is None else tail_of(conv)
        bypass = None
        if self.whole:
            if resize is not None and layer.bypass is not None and not layer.bypass.keeps_positions:
                maps, resize = resize(maps), None
            if resize is None and prepared.halved is not None:
                bypass, resize = maps, prepared.halved
            else:
                bypass = self._bypass(maps, prepared.size)
        sums: Tensor | None = None
        if layer.sums_for is not None and tail is None and self.whole and prepared.conv is not None:
            sums = torch.empty(len(maps), layer.spec.out_channels, dtype=torch.float32, device="cpu")
        if prepared.conv is None:
            y = self._transposed(maps, prepared, words, scales, bypass, tail)
        elif self.scaled:
            y = prepared.conv(words, alpha=scales, bypass=bypass, resize=resize, tail=tail, sums=sums)
        elif self.depthwise and scales is not None and per_channel(layer):
            offset = layer.vector("offset") * scales[0] if layer.spec.offset else None
            mul = layer.vector("scale") * scales[0]
            y = prepared.conv(words, mul=mul, offset=offset, bypass=bypass, sums=sums)
        else:
            y = prepared.conv(words, sample_scale=scales, bypass=bypass, resize=resize, tail=tail, sums=sums)
        if sums is not None and layer.sums_for is not None:
            hand_over(layer.sums_for, y, sums)
        y = back(y, x, linear=self.linear)
        if self.whole:
            return y
        return layer.followed(layer.behind(y, x if prepared.resize is None else prepared.resize(x)))

    def _prepare(self, maps: Tensor, output_size: Sequence[int] | None, resize: Resize | None) -> _Prepared:
        """What calls on maps of this shape have in common."""
        layer, spec = self.layer, self.layer.spec
        if resize is not None:
            maps = maps.new_empty(()).expand(*maps.shape[:2], *resize.size)
        size = self._out_size(maps, output_size)
        weights = self.weights
        if weights is not None and spec.same:
            weights = dataclasses.replace(weights, padding=self._same(maps))
        if weights is not None:
            border = weights.border
        elif self.transposed is not None:
            border = self.transposed.border(maps.shape[2], maps.shape[3], size)
        else:
            raise RuntimeError("no weights")
        given: dict[str, Any] = {}
        kind = spec.quantizer.kind
        if kind == "dab":
            given["dab"] = dab_of(layer)
        elif kind == "step":
            given |= steps_of(layer)
        elif kind == "redistributed":
            given |= {"mul": layer.vector("k"), "add": layer.vector("b")}
        elif kind == "shifted":
            given["add"] = layer.vector("beta")
        elif kind == "adabin":
            # dividing by alpha turns the comparison around where it is negative
            way = torch.sign(layer.vector("alpha"))
            add = -way * layer.vector("beta")
            given |= {"mul": way.expand(spec.in_channels), "add": add.expand(spec.in_channels)}
        groups, threads = 1 if self.depthwise else spec.groups, layer.options.threads
        shape = (len(maps), len(self.doubled), *maps.shape[2:]) if self.doubled is not None else maps.shape
        pack = PreparedPack(shape, groups=groups, border=border, resize=resize, threads=threads, **given)
        if weights is None:
            return _Prepared(pack, None, size, border, resize, None)
        exact = layer.options.exact_scales
        conv = PreparedConv(weights, pack.plane, self.epilogue, size, exact=exact, threads=threads)
        return _Prepared(pack, conv, size, border, resize, self._halved(maps, size))

    def _transposed(
        self,
        maps: Tensor,
        prepared: _Prepared,
        words: Tensor,
        scales: Tensor | None,
        bypass: Tensor | None,
        tail: Tail | None,
    ) -> Tensor:
        if self.transposed is None:
            raise RuntimeError("no weights")
        images, channels, height, width = maps.shape
        channels = channels if self.doubled is None else len(self.doubled)
        plane = BitPlane(
            words=words[: prepared.pack.words],
            images=images,
            height=height,
            width=width,
            channels=channels,
            groups=self.layer.spec.groups,
            border=prepared.border,
        )
        epilogue = dataclasses.replace(self.epilogue, sample_scale=scales, bypass=bypass, tail=tail)
        threads = self.layer.options.threads
        return conv_transposed(plane, self.transposed, epilogue, out_size=prepared.size, threads=threads)

    def _plane_maps(self, maps: Tensor) -> Tensor:
        """The maps with the channels of the plane."""
        return maps if self.doubled is None else maps.index_select(1, self.doubled)

    def _bypass(self, x: Tensor, size: Sequence[int]) -> Tensor | None:
        way = self.way
        if way is None or self.direct:
            return None if way is None else x
        if len(way.stride) == 1:
            return way.at(x.squeeze(2), size[1:]).unsqueeze(2)
        return way.at(x, size)

    def _halved(self, x: Tensor, size: tuple[int, int]) -> Resize | None:
        """The bypass as an interpolation: to half the size, that is the mean of 2x2 positions.

        The same bits, but that no sum can overflow.
        """
        way = self.way
        halves = x.shape[2:] == (2 * size[0], 2 * size[1]) and way is not None and way.stride == (2, 2)
        if not halves or self.depthwise or self.transposed is not None:
            return None
        return Resize(size=size, align_corners=False)

    def _out_size(self, x: Tensor, output_size: Sequence[int] | None) -> tuple[int, int]:
        spec = self.layer.spec
        height, width = x.shape[2:]
        if self.transposed is not None:
            extra = self.layer.extra(output_size, (height, width))
            return self.transposed.out_size(height, width, extra)
        if spec.same:
            h, w = (-(-n // s) for n, s in zip((height, width), self.stride, strict=True))
            return h, w
        if self.weights is None:
            raise RuntimeError("no weights")
        return self.weights.out_size(height, width)

    def _same(self, x: Tensor) -> tuple[int, int, int, int]:
        """Padding by the size of the input, as TensorFlow's SAME: (top, left, bottom, right)."""
        (top, bottom), (left, right) = same_pads(x.shape[2:], self.kernel, self.stride, self.dilation)
        return top, left, bottom, right
