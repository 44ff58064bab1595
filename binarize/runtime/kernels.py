"""A packed layer on the native kernels: thresholds from statistics, one pass to pack, one to convolve.

Everything behind the product (scale, norm, inner activation, bypass, and the activation of the network that
follows) happens where the sums are made, before they are written for the first time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from binarize.functional import Geometry
from binarize.layers import BiasPReLU, Maxout, RPReLU
from binarize.native.convolution import conv, conv_scaled
from binarize.native.epilogue import Activation, Epilogue
from binarize.native.library import available
from binarize.native.planes import BitPlane, channel_sums, pack
from binarize.native.transposed import TransposedWeights, conv_transposed, pack_transposed
from binarize.native.weights import PackedWeights, pack_depthwise, pack_scaled, pack_weights

if TYPE_CHECKING:
    from binarize.runtime.packed import PackedLayer

_TAPS = 255  # of a depthwise kernel, which counts in bytes


class _Signs(NamedTuple):
    """The signs of mul * x + add, and the scales that they stand for.

    Attributes:
        plane: the signs.
        alpha: per image and channel, (N, C), or None for 1.
        whole: per image, (N,), or None for 1.
    """

    plane: BitPlane
    alpha: Tensor | None
    whole: Tensor | None


def why_not(layer: PackedLayer) -> str | None:
    """Why a packed layer is computed by torch instead, or None if the kernels do it."""
    spec = layer.spec
    if not available():
        return "the native kernels are not installed"
    if layer.vectors.dtype != torch.float32 or layer.vectors.device.type != "cpu":
        return f"{layer.vectors.dtype} on {layer.vectors.device}: the kernels take float32 on the CPU"
    if spec.padding_mode != "zeros":
        return f"padding_mode={spec.padding_mode}"
    if spec.quantizer.kind == "adabin" or spec.offset:
        return "two values that are not +-1 on both sides, which a popcount alone does not sum"
    if spec.kind == "transposed" and _per_channel(layer):
        return "a transposed convolution with a scale per channel"
    return None


def activation_of(module: nn.Module | None) -> Activation | None:
    """The kernels' form of an activation module; None if they do not know it."""
    if module is None or type(module) is nn.Identity:
        return Activation()
    known: dict[str, Tensor] = {n: t.detach().reshape(-1).float() for n, t in module.named_buffers()}
    known |= {n: t.detach().reshape(-1).float() for n, t in module.named_parameters()}
    if type(module) is BiasPReLU:
        return Activation(kind="piecewise", before=known["b0"], negative=known["weight"])
    if type(module) is RPReLU:
        return Activation(kind="piecewise", before=known["b0"], negative=known["weight"], after=known["b1"])
    if type(module) is Maxout:
        return Activation(kind="piecewise", negative=known["q"], positive=known["p"])
    if type(module) is nn.ReLU:
        return Activation(kind="piecewise")
    if type(module) is nn.Hardtanh:
        return Activation(kind="clamp", low=float(module.min_val), high=float(module.max_val))
    return None


class Kernels:
    """What the kernels need of one layer.

    Args:
        layer: for which `why_not` is None.
    """

    def __init__(self, layer: PackedLayer) -> None:
        spec = layer.spec
        self.layer = layer
        signs = layer.signs(torch.float32)
        self.depthwise = False
        self.scaled = False
        self.transposed: TransposedWeights | None = None
        self.weights: PackedWeights | None = None
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
        self.depthwise = (
            spec.groups == spec.in_channels == spec.out_channels and self.kernel[0] * self.kernel[1] <= _TAPS
        )
        if self.depthwise:
            self.weights = pack_depthwise(signs, padding=padding, **shape)
        elif _per_channel(layer):
            self.scaled = True
            self.weights = pack_scaled(signs, padding=padding, groups=spec.groups, **shape)
        else:
            self.weights = pack_weights(signs, padding=padding, groups=spec.groups, **shape)

    def __call__(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """As `PackedLayer.forward`: the whole layer, and the activation that it took over."""
        layer, spec = self.layer, self.layer.spec
        maps = _as_maps(x, linear=spec.kind == "linear")
        if self.depthwise and _per_channel(layer) and len(maps) > 1:
            # a scale per input channel is one per output channel here, but it differs between images
            parts = [self(x[i : i + 1]) for i in range(len(x))]
            return torch.cat(parts)
        signs = self._signs(maps, output_size)
        y = self._convolve(signs, maps, x, output_size)
        return _back(y, x, linear=spec.kind == "linear")

    def _signs(self, x: Tensor, output_size: Sequence[int] | None) -> _Signs:
        layer, spec = self.layer, self.layer.spec
        border = self._border(x, output_size)
        groups = 1 if self.depthwise else spec.groups
        threads = layer.options.threads
        kind = spec.quantizer.kind
        if kind != "dab":
            mul = layer.vector("k") if kind == "redistributed" else None
            name = {"redistributed": "b", "shifted": "beta"}.get(kind)
            add = layer.vector(name) if name is not None else None
            return _Signs(
                pack(x, mul=mul, add=add, groups=groups, border=border, threads=threads), None, None
            )
        quantizer = spec.quantizer
        positions = x.shape[2] * x.shape[3]
        add = None
        if quantizer.threshold in ("adaptive", "mean"):
            add = -(layer.vector("k") * (channel_sums(x, threads=threads) / positions))
        if quantizer.threshold in ("adaptive", "b"):
            b = layer.vector("b")
            add = -b if add is None else add - b
        wanted = quantizer.scale in ("adaptive", "mad")
        sums = torch.empty(x.shape[0], x.shape[1]) if wanted else None
        plane = pack(x, add=add, groups=groups, border=border, abs_sums=sums, threads=threads)
        scale: Tensor | None = None
        if sums is not None:
            scale = sums / positions
            if quantizer.granularity == "layer":
                scale = scale.mean(1, keepdim=True)
        if quantizer.scale == "adaptive" and scale is not None:
            scale = torch.exp(layer.vector("a") * (scale - 1))
        elif quantizer.scale == "learned":
            scale = torch.exp(layer.vector("a")).expand(x.shape[0], -1)
        if scale is None:
            return _Signs(plane, None, None)
        if quantizer.granularity == "layer":
            return _Signs(plane, None, scale.reshape(-1).contiguous())
        return _Signs(plane, scale.contiguous(), None)

    def _convolve(self, signs: _Signs, maps: Tensor, x: Tensor, output_size: Sequence[int] | None) -> Tensor:
        layer, spec = self.layer, self.layer.spec
        mul, threads = layer.vector("scale"), layer.options.threads
        if self.depthwise and signs.alpha is not None:
            mul = mul * signs.alpha[0]
        size = self._out_size(maps, output_size)
        inner = activation_of(layer.inner)
        whole = layer.norm is None and inner is not None  # else torch goes on behind scale and shift
        epilogue = Epilogue(mul=mul, add=layer.vector("shift"), sample_scale=signs.whole)
        if whole:
            epilogue = dataclasses.replace(
                epilogue,
                first=inner,
                second=activation_of(layer.after) or Activation(),
                bypass=self._bypass(maps, size),
            )
        if self.transposed is not None:
            y = conv_transposed(signs.plane, self.transposed, epilogue, out_size=size, threads=threads)
        elif self.scaled and signs.alpha is not None and self.weights is not None:
            exact = layer.options.exact_scales
            y = conv_scaled(
                signs.plane, self.weights, signs.alpha, epilogue, exact=exact, out_size=size, threads=threads
            )
        elif self.weights is not None:
            y = conv(signs.plane, self.weights, epilogue, out_size=size, threads=threads)
        else:
            raise RuntimeError("no weights")
        if whole:
            return y
        y = layer.behind(_back(y, x, linear=spec.kind == "linear"), x)
        if layer.after is not None:
            y = layer.activated(y)
        return _as_maps(y, linear=spec.kind == "linear")

    def _bypass(self, x: Tensor, size: Sequence[int]) -> Tensor | None:
        way = self.layer.bypass
        if way is None:
            return None
        if not way.stride:
            return x
        if len(way.stride) == 1:
            return way.at(x.squeeze(2), size[1:]).unsqueeze(2)
        return way.at(x, size)

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

    def _border(self, x: Tensor, output_size: Sequence[int] | None) -> tuple[int, int]:
        if self.transposed is not None:
            return self.transposed.border(x.shape[2], x.shape[3], self._out_size(x, output_size))
        if self.weights is None:
            raise RuntimeError("no weights")
        if self.layer.spec.same:
            self.weights = dataclasses.replace(self.weights, padding=self._same(x))
        return self.weights.border

    def _same(self, x: Tensor) -> tuple[int, int, int, int]:
        """Padding by the size of the input, as TensorFlow's SAME: (top, left, bottom, right)."""
        totals = [
            max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
            for n, k, s, d in zip(x.shape[2:], self.kernel, self.stride, self.dilation, strict=True)
        ]
        (top, left), (high, wide) = (t // 2 for t in totals), totals
        return top, left, high - top, wide - left


def _per_channel(layer: PackedLayer) -> bool:
    """Whether activations have a scale per channel, which stands inside the sum over input channels."""
    quantizer = layer.spec.quantizer
    return quantizer.kind == "dab" and quantizer.granularity == "channel" and quantizer.scale != "none"


def _as_maps(x: Tensor, *, linear: bool) -> Tensor:
    """(N, C, H, W), a view where that is possible."""
    if not linear:
        return x.unsqueeze(2) if x.dim() == 3 else x
    if x.dim() == 4:
        return x.movedim(-1, 1)
    flat = x.reshape(1, 1, -1, x.shape[-1]) if x.dim() < 3 else x.reshape(x.shape[0], 1, -1, x.shape[-1])
    return flat.movedim(-1, 1)


def _back(y: Tensor, x: Tensor, *, linear: bool) -> Tensor:
    """The inverse of `_as_maps` for a result with other channels or positions."""
    if not linear:
        return y.squeeze(2) if x.dim() == 3 else y
    return y.movedim(1, -1).reshape(*x.shape[:-1], y.shape[1])
