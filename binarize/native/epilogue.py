"""Data of the epilogue: what a convolution does to its sums before they are stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from binarize.errors import NativeError
from binarize.native import structs
from binarize.native.tensors import address, channels_last, checked, map_of, output_vector, vector
from binarize.native.types import Resize

_KINDS = {"none": 0, "piecewise": 1, "clamp": 2}


@dataclass(frozen=True, kw_only=True)
class Activation:
    """An activation function that the kernels can compute.

    `piecewise`: t = y + before; t = t * negative if t < 0 else t * positive; y = t + after. This covers ReLU,
    PReLU, RPReLU and Maxout; None means before = after = negative = 0 and positive = 1. `clamp`:
    min(max(y, low), high).

    Attributes:
        kind: `none`, `piecewise` or `clamp`.
        before: (Cout,) or None.
        negative: (Cout,) or None.
        positive: (Cout,) or None.
        after: (Cout,) or None.
        low: of `clamp`.
        high: of `clamp`.
    """

    kind: Literal["none", "piecewise", "clamp"] = "none"
    before: Tensor | None = None
    negative: Tensor | None = None
    positive: Tensor | None = None
    after: Tensor | None = None
    low: float = 0.0
    high: float = 0.0

    def owned(self) -> Activation:
        """See `Epilogue.owned`."""
        names = ("before", "negative", "positive", "after")
        return replace(self, **{name: _owned(getattr(self, name)) for name in names})

    def checked(self, channels: int) -> Activation:
        """The same with arrays in the form that the kernels need.

        Raises:
            NativeError: an array of another shape or dtype.
        """
        names = ("before", "negative", "positive", "after")
        arrays = {n: vector(f"Activation.{n}", getattr(self, n), channels) for n in names}
        return replace(self, **arrays)

    def struct(self) -> structs.Activation:
        """The library's structure, of a checked activation; valid while that lives."""
        arrays = (address(x) for x in (self.before, self.negative, self.positive, self.after))
        return structs.Activation(_KINDS[self.kind], self.low, self.high, *arrays)

    def __call__(self, x: Tensor, dim: int = 1) -> Tensor:
        """The same by torch, of (N, C, ...) or, with dim -1, (..., C)."""
        if self.kind == "none":
            return x
        if self.kind == "clamp":
            return x.clamp(self.low, self.high)

        def lined_up(t: Tensor) -> Tensor:
            return t if dim == -1 else t.view(1, -1, *(1,) * (x.dim() - 2))

        t = x if self.before is None else x + lined_up(self.before)
        below = torch.zeros_like(t) if self.negative is None else t * lined_up(self.negative)
        above = t if self.positive is None else t * lined_up(self.positive)
        y = torch.where(t < 0, below, above)
        return y if self.after is None else y + lined_up(self.after)

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise NativeError(f"Activation: kind={self.kind!r}; expected one of {', '.join(_KINDS)}.")


@dataclass(frozen=True, kw_only=True)
class Tail:
    """A float 1x1 convolution of the result y: z = weight y + bias. Only z is stored.

    Attributes:
        weight: (Cz, Cout) float32.
        bias: (Cz,), or None.
    """

    weight: Tensor
    bias: Tensor | None = None

    @property
    def channels(self) -> int:
        """Cz."""
        return self.weight.shape[0]

    def packed(self, channels: int) -> PackedTail:
        """In the kernels' layout, for results of `channels` channels.

        Raises:
            NativeError: a tensor of another shape or dtype.
        """
        weight = checked("Tail.weight", self.weight, (None, channels))
        outputs = weight.shape[0]
        padded = F.pad(weight, (0, 0, 0, -outputs % 16))
        bias = vector("Tail.bias", self.bias, outputs)
        return PackedTail(
            weight=weight,
            bias=bias,
            rows=padded.view(-1, 16, channels).transpose(1, 2).contiguous(),
            shifts=None if bias is None else F.pad(bias, (0, -outputs % 16)),
        )


@dataclass(frozen=True, kw_only=True)
class PackedTail(Tail):
    """A tail as the kernels read it.

    Attributes:
        rows: (ceil(Cz / 16), Cout, 16) float32, zeros behind the last output.
        shifts: (Cz padded to 16,), or None.
    """

    rows: Tensor
    shifts: Tensor | None

    def struct(self, out: Tensor) -> structs.Tail:
        """The library's structure; valid while the tail lives."""
        return structs.Tail(address(self.rows), address(self.shifts), self.channels, map_of(out))


@dataclass(frozen=True, kw_only=True)
class Epilogue:
    """y = sum * mul * sample_scale + add; first; y += bypass; second; y += residual; tail.

    `sum` is that of products of +-1. With `offset` or `midpoint`, sum * mul becomes the sum of products of
    weights +-mul + offset with activations +-1 + midpoint, still with padded positions that count 0;
    `conv_scaled` has neither.

    Attributes:
        mul: (Cout,) float32, or None for 1.
        add: (Cout,), or None for 0.
        sample_scale: (N,), or None for 1; (N, G) where weights have G scale groups.
        offset: (Cout,), or None for 0: the middle of the weights' two values.
        midpoint: the middle of the activations' two values.
        first: activation before the bypass.
        second: activation after the bypass.
        bypass: (N, C, Hout, Wout) with any number of channels C: brought to Cout channels by whole copies
            and merged means, as `binarize.functional.channel_bypass` does.
        resize: of the bypass, which then has another size: (N, C, h, w).
        residual: (N, Cout, Hout, Wout), added after `second`.
        sums: (N, Cout), is overwritten by the sums of y over positions.
        tail: computes the result (N, Cz, Hout, Wout) from y.
    """

    mul: Tensor | None = None
    add: Tensor | None = None
    sample_scale: Tensor | None = None
    offset: Tensor | None = None
    midpoint: float = 0.0
    first: Activation = field(default_factory=Activation)
    second: Activation = field(default_factory=Activation)
    bypass: Tensor | None = None
    resize: Resize | None = None
    residual: Tensor | None = None
    sums: Tensor | None = None
    tail: Tail | None = None

    def out_channels(self, channels: int) -> int:
        """Channels of the result, for a convolution with `channels` outputs."""
        return channels if self.tail is None else self.tail.channels

    @property
    def plain(self) -> bool:
        """Whether weights are +-mul and activations +-1."""
        return self.offset is None and self.midpoint == 0.0

    @property
    def steps(self) -> bool:
        """Whether activations are 0 and +-2: sums are then whole numbers until they are multiplied by mul."""
        return self.offset is None and self.midpoint in (1.0, -1.0)

    def checked(self, images: int, channels: int, size: Sequence[int], *, scale_groups: int = 1) -> Epilogue:
        """The same with tensors in the form that the kernels need.

        Raises:
            NativeError: a tensor of another shape or dtype.
        """
        bypass, residual = self.bypass, self.residual
        if bypass is not None:
            if self.resize is not None and self.resize.size != tuple(size):
                raise NativeError(f"Epilogue.resize makes {self.resize.size}; expected {tuple(size)}.")
            shape = (images, None, *((None, None) if self.resize else size))
            bypass = checked("Epilogue.bypass", bypass, shape, contiguous=False)
        if residual is not None:
            residual = checked("Epilogue.residual", residual, (images, channels, *size), contiguous=False)
        scale = self.sample_scale
        if scale is not None and scale_groups > 1:
            scale = checked("Epilogue.sample_scale", scale, (images, scale_groups))
        else:
            scale = vector("Epilogue.sample_scale", scale, images)
        return Epilogue(
            mul=vector("Epilogue.mul", self.mul, channels),
            add=vector("Epilogue.add", self.add, channels),
            sample_scale=scale,
            offset=vector("Epilogue.offset", self.offset, channels),
            midpoint=self.midpoint,
            first=self.first.checked(channels),
            second=self.second.checked(channels),
            bypass=None if bypass is None else channels_last(bypass),
            resize=self.resize,
            residual=None if residual is None else channels_last(residual),
            sums=output_vector("Epilogue.sums", self.sums, images, channels),
            tail=None if self.tail is None else self.tail.packed(channels),
        )

    def owned(self) -> Epilogue:
        """The same with copies of its constants, which no other code can move or free."""
        return replace(
            self,
            **{name: _owned(getattr(self, name)) for name in ("mul", "add", "offset")},
            first=self.first.owned(),
            second=self.second.owned(),
        )

    def struct(self, out: Tensor) -> structs.Epilogue:
        """The library's structure, of a checked epilogue; valid while the epilogue lives."""
        bypass = self.bypass
        return structs.Epilogue(
            address(self.mul),
            address(self.add),
            address(self.sample_scale),
            address(self.offset),
            self.midpoint,
            self.first.struct(),
            self.second.struct(),
            map_of(bypass),
            0 if bypass is None else bypass.shape[1],
            structs.Resize()
            if self.bypass is None or self.resize is None
            else self.resize.struct(self.bypass),
            map_of(self.residual),
            map_of(None if self.tail is not None else out),
            address(self.sums),
            self.tail.struct(out) if isinstance(self.tail, PackedTail) else structs.Tail(),
        )


def _owned(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.detach().clone()
