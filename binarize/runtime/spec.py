"""What a packed layer is, apart from its numbers: geometry, quantizer, norm, bypass; as JSON and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from binarize.functional.dab import group_bounds
from binarize.runtime.fields import Fields

KINDS = ("conv", "transposed", "linear")
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
FITS = ("floor", "ceil", "crop")
QUANTIZERS = ("sign", "step", "shifted", "shifted_step", "redistributed", "adabin", "dab", "levels")
THRESHOLDS = ("adaptive", "b", "mean", "none")
SCALES = ("adaptive", "mad", "learned", "none")
GRANULARITIES = ("channel", "group", "layer")
MOST_PLANES = 8
"""Of weights."""
MOST_BITS = 4
"""Of activations: 15 thresholds."""


@dataclass(frozen=True, kw_only=True)
class QuantizerSpec:
    """How activations become two values, or 2^K; the formulas stand in `docs/format.md`.

    Attributes:
        kind: one of `QUANTIZERS`.
        threshold: of a `dab`.
        scale: of a `dab`.
        granularity: of a `dab`.
        groups: of a `dab` with granularity `group`: how many groups there are at most; else 0.
        ranges: of a `step`: channels [start, stop) that it is for, the others having signs; empty for all.
        bits: of `levels`: K, of 2^K values; else 0.
        signed: of `levels`: the digits of a value are -1 and 1, not 0 and 1.
    """

    kind: str
    threshold: str = ""
    scale: str = ""
    granularity: str = ""
    groups: int = 0
    ranges: tuple[tuple[int, int], ...] = ()
    bits: int = 0
    signed: bool = False

    @property
    def planes(self) -> int:
        """How many bits an activation has."""
        return self.bits or 1

    def scale_groups(self, channels: int) -> int:
        """Groups of a `dab`'s channels with one scale each: 1 for one scale; 0 for one per channel."""
        if self.granularity == "group":
            return len(group_bounds(channels, self.groups)) - 1
        return 1 if self.granularity == "layer" else 0

    def parameters(self, channels: int) -> dict[str, int]:
        """Name and length of each vector of parameters, in the order in which they are stored."""
        if self.kind in ("shifted", "shifted_step"):
            return {"beta": channels}
        if self.kind == "redistributed":
            return {"k": channels, "b": channels}
        if self.kind == "adabin":
            return {"alpha": 1, "beta": 1}
        if self.kind == "levels":
            return {"basis": self.bits}
        lengths: dict[str, int] = {}
        if self.scale in ("adaptive", "learned"):
            lengths["a"] = self.scale_groups(channels) or channels
        if self.threshold in ("adaptive", "mean"):
            lengths["k"] = channels
        if self.threshold in ("adaptive", "b"):
            lengths["b"] = channels
        return lengths


@dataclass(frozen=True, kw_only=True)
class PackedSpec:
    """One packed layer: all of it but its numbers.

    Attributes:
        kind: `conv` (1 or 2 spatial dims), `transposed` (2) or `linear` (channels in the last dim).
        in_channels: Cin.
        out_channels: Cout.
        kernel: one number per spatial dim; empty for `linear`, as are the next four.
        stride: likewise.
        padding: low and high side per spatial dim.
        dilation: likewise.
        output_padding: of `transposed`, one number per spatial dim; else empty.
        groups: of the convolution.
        same: pads by the size of the input, as TensorFlow's "SAME"; `padding` is 0 then.
        padding_mode: what stands in padded positions; `zeros` are neither of the two values.
        quantizer: of the input.
        offset: weights are scale * sign + offset, with an offset per filter.
        weight_planes: how many binary weights, each scale * sign, every weight is the sum of.
        norm: what stands between shift and `inner` because it cannot be folded:
            `{"kind": "layer", "eps": e}`, `{"kind": "module", "class": name}`, or None.
        inner: activation behind it: `{"kind": "rprelu"}`, `{"kind": "module", "class": name}`, or None.
        bypass: `floor`, `ceil` or `crop` (see `binarize.layers.Bypass`), or None.
    """

    kind: str
    in_channels: int
    out_channels: int
    quantizer: QuantizerSpec
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    output_padding: tuple[int, ...] = ()
    groups: int = 1
    same: bool = False
    padding_mode: str = "zeros"
    offset: bool = False
    weight_planes: int = 1
    norm: Mapping[str, Any] | None = field(default=None, hash=False)
    inner: Mapping[str, Any] | None = field(default=None, hash=False)
    bypass: str | None = None

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Of the signs of one plane, output filters first: (Cout, Cin / groups, *kernel)."""
        return (self.out_channels, self.in_channels // self.groups, *self.kernel)

    @property
    def weights(self) -> int:
        """How many weights there are; with K planes, each has K bits."""
        return math.prod(self.weight_shape)

    @property
    def plane_bytes(self) -> int:
        """Bytes of the signs of one plane."""
        return -(-self.weights // 8)

    @property
    def sum_of_binary(self) -> bool:
        """Whether it takes more than one binary convolution."""
        return self.weight_planes > 1 or self.quantizer.planes > 1

    @property
    def dim(self) -> int:
        """The channel dimension: 1, or -1 for `linear`."""
        return -1 if self.kind == "linear" else 1

    def vectors(self) -> dict[str, int]:
        """Name and length of all float vectors, in the order in which they are stored."""
        lengths = {"scale": self.weight_planes * self.out_channels}
        if self.offset:
            lengths["offset"] = self.out_channels
        lengths["shift"] = self.out_channels
        return lengths | self.quantizer.parameters(self.in_channels)

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it: what has its usual value (stride 1, no padding...) is left out."""
        quantizer = {name: value for name, value in vars(self.quantizer).items() if value}
        if self.quantizer.ranges:
            quantizer["ranges"] = [list(pair) for pair in self.quantizer.ranges]
        given: dict[str, Any] = {
            "kind": self.kind,
            "in": self.in_channels,
            "out": self.out_channels,
            "quantizer": quantizer,
        }
        if self.kernel:
            given["kernel"] = list(self.kernel)
        if any(s != 1 for s in self.stride):
            given["stride"] = list(self.stride)
        if any(side for pair in self.padding for side in pair):
            given["padding"] = [list(pair) for pair in self.padding]
        if any(d != 1 for d in self.dilation):
            given["dilation"] = list(self.dilation)
        if any(self.output_padding):
            given["output_padding"] = list(self.output_padding)
        if self.groups != 1:
            given["groups"] = self.groups
        if self.same:
            given["same"] = True
        if self.padding_mode != "zeros":
            given["padding_mode"] = self.padding_mode
        if self.offset:
            given["offset"] = True
        if self.weight_planes != 1:
            given["weight_planes"] = self.weight_planes
        for name in ("norm", "inner", "bypass"):
            value = getattr(self, name)
            if value is not None:
                given[name] = value if isinstance(value, str) else dict(value)
        return given

    @classmethod
    def from_dict(cls, given: Any, where: str) -> PackedSpec:
        """The inverse of `as_dict`, for input that may be anything.

        Args:
            given: a value from JSON.
            where: names file and layer in messages.

        Raises:
            FormatError: for what `as_dict` never gives.
        """
        return _Reader(given, where).spec()


class _Reader(Fields):
    """Reads the fields of one layer, each checked; what is left over is an error."""

    def spec(self) -> PackedSpec:
        kind = self.choice("kind", KINDS)
        kernel = () if kind == "linear" else self.numbers("kernel", None, least=1)
        if kind != "linear" and len(kernel) not in ((1, 2) if kind == "conv" else (2,)):
            self.fail("kernel", list(kernel), "one number per spatial dim, of 1 or 2")
        n = len(kernel)
        spec = PackedSpec(
            kind=kind,
            in_channels=(channels := self.number("in", least=1)),
            out_channels=self.number("out", least=1),
            quantizer=self._quantizer(self.given.pop("quantizer", None), channels),
            kernel=kernel,
            stride=self.numbers("stride", (1,) * n, least=1),
            padding=self.padding(n),
            dilation=self.numbers("dilation", (1,) * n, least=1),
            output_padding=self.numbers("output_padding", (0,) * n if kind == "transposed" else ()),
            groups=self.number("groups", least=1, default=1),
            same=self.flag("same"),
            padding_mode=self.choice("padding_mode", PADDING_MODES, default="zeros"),
            offset=self.flag("offset"),
            weight_planes=self.number("weight_planes", least=1, most=MOST_PLANES, default=1),
            norm=self.part("norm"),
            inner=self.part("inner"),
            bypass=self.choice("bypass", FITS, default=None),
        )
        for name in self.given:
            self.fail(name, self.given[name], "nothing of that name")
        if spec.in_channels % spec.groups or spec.out_channels % spec.groups:
            self.fail("groups", spec.groups, f"a divisor of {spec.in_channels} and {spec.out_channels}")
        if spec.offset and spec.weight_planes > 1:
            self.fail("offset", True, "none for weights of several planes")
        return spec

    def _quantizer(self, given: Any, channels: int) -> QuantizerSpec:
        fields = dict(self.mapping("quantizer", given))
        inner = _Reader(fields, self.where)
        kind = inner.choice("kind", QUANTIZERS)
        if kind == "step":
            found = QuantizerSpec(kind=kind, ranges=inner.ranges("ranges", channels))
        elif kind == "levels":
            bits = inner.number("bits", least=2, most=MOST_BITS)
            found = QuantizerSpec(kind=kind, bits=bits, signed=inner.flag("signed"))
        elif kind != "dab":
            found = QuantizerSpec(kind=kind)
        else:
            found = QuantizerSpec(
                kind=kind,
                threshold=inner.choice("threshold", THRESHOLDS),
                scale=inner.choice("scale", SCALES),
                granularity=(granularity := inner.choice("granularity", GRANULARITIES)),
                groups=inner.number("groups", least=1) if granularity == "group" else 0,
            )
        for name in inner.given:
            self.fail(f"quantizer.{name}", inner.given[name], "nothing of that name")
        return found
