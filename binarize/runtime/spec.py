"""What a packed layer is, apart from its numbers: geometry, quantizer, norm, bypass; as JSON and back."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from binarize.errors import FormatError

KINDS = ("conv", "transposed", "linear")
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
FITS = ("floor", "ceil", "crop")
QUANTIZERS = ("sign", "step", "shifted", "shifted_step", "redistributed", "adabin", "dab")
THRESHOLDS = ("adaptive", "b", "mean", "none")
SCALES = ("adaptive", "mad", "learned", "none")
GRANULARITIES = ("channel", "layer")
_LARGEST = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class QuantizerSpec:
    """How activations become two values; the formulas stand in `docs/format.md`.

    Attributes:
        kind: one of `QUANTIZERS`.
        threshold: of a `dab`.
        scale: of a `dab`.
        granularity: of a `dab`.
        ranges: of a `step`: channels [start, stop) that it is for, the others having signs; empty for all.
    """

    kind: str
    threshold: str = ""
    scale: str = ""
    granularity: str = ""
    ranges: tuple[tuple[int, int], ...] = ()

    def parameters(self, channels: int) -> dict[str, int]:
        """Name and length of each vector of parameters, in the order in which they are stored."""
        if self.kind in ("shifted", "shifted_step"):
            return {"beta": channels}
        if self.kind == "redistributed":
            return {"k": channels, "b": channels}
        if self.kind == "adabin":
            return {"alpha": 1, "beta": 1}
        lengths: dict[str, int] = {}
        if self.scale in ("adaptive", "learned"):
            lengths["a"] = 1 if self.granularity == "layer" else channels
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
    norm: Mapping[str, Any] | None = field(default=None, hash=False)
    inner: Mapping[str, Any] | None = field(default=None, hash=False)
    bypass: str | None = None

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Of the signs, output filters first: (Cout, Cin / groups, *kernel)."""
        return (self.out_channels, self.in_channels // self.groups, *self.kernel)

    @property
    def weights(self) -> int:
        """How many binary weights there are."""
        return math.prod(self.weight_shape)

    @property
    def dim(self) -> int:
        """The channel dimension: 1, or -1 for `linear`."""
        return -1 if self.kind == "linear" else 1

    def vectors(self) -> dict[str, int]:
        """Name and length of all float vectors, in the order in which they are stored."""
        lengths = {"scale": self.out_channels}
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


class _Reader:
    """Reads the fields of one layer, each checked; what is left over is an error."""

    def __init__(self, given: Any, where: str) -> None:
        self._where = where
        self._given = dict(self._mapping("the layer", given))

    def spec(self) -> PackedSpec:
        kind = self._choice("kind", KINDS)
        kernel = () if kind == "linear" else self._numbers("kernel", None, least=1)
        if kind != "linear" and len(kernel) not in ((1, 2) if kind == "conv" else (2,)):
            self._fail("kernel", list(kernel), "one number per spatial dim, of 1 or 2")
        n = len(kernel)
        spec = PackedSpec(
            kind=kind,
            in_channels=(channels := self._number("in", least=1)),
            out_channels=self._number("out", least=1),
            quantizer=self._quantizer(self._given.pop("quantizer", None), channels),
            kernel=kernel,
            stride=self._numbers("stride", (1,) * n, least=1),
            padding=self._padding(n),
            dilation=self._numbers("dilation", (1,) * n, least=1),
            output_padding=self._numbers("output_padding", (0,) * n if kind == "transposed" else ()),
            groups=self._number("groups", least=1, default=1),
            same=self._flag("same"),
            padding_mode=self._choice("padding_mode", PADDING_MODES, default="zeros"),
            offset=self._flag("offset"),
            norm=self._part("norm"),
            inner=self._part("inner"),
            bypass=self._choice("bypass", FITS, default=None),
        )
        for name in self._given:
            self._fail(name, self._given[name], "nothing of that name")
        if spec.in_channels % spec.groups or spec.out_channels % spec.groups:
            self._fail("groups", spec.groups, f"a divisor of {spec.in_channels} and {spec.out_channels}")
        return spec

    def _quantizer(self, given: Any, channels: int) -> QuantizerSpec:
        fields = dict(self._mapping("quantizer", given))
        inner = _Reader(fields, self._where)
        kind = inner._choice("kind", QUANTIZERS)
        if kind == "step":
            found = QuantizerSpec(kind=kind, ranges=inner._ranges("ranges", channels))
        elif kind != "dab":
            found = QuantizerSpec(kind=kind)
        else:
            found = QuantizerSpec(
                kind=kind,
                threshold=inner._choice("threshold", THRESHOLDS),
                scale=inner._choice("scale", SCALES),
                granularity=inner._choice("granularity", GRANULARITIES),
            )
        for name in inner._given:
            self._fail(f"quantizer.{name}", inner._given[name], "nothing of that name")
        return found

    def _padding(self, n: int) -> tuple[tuple[int, int], ...]:
        given = self._given.pop("padding", [[0, 0]] * n)
        right = isinstance(given, list) and len(given) == n
        if not right or not all(isinstance(pair, list) and len(pair) == 2 for pair in given):
            self._fail("padding", given, f"{n} pairs of numbers")
        return tuple((self._whole("padding", low, 0), self._whole("padding", high, 0)) for low, high in given)

    def _ranges(self, name: str, channels: int) -> tuple[tuple[int, int], ...]:
        """Pairs [start, stop) of channels, in their order, apart from each other and not of all channels."""
        given = self._given.pop(name, [])
        pairs: list[Any] = given if isinstance(given, list) else [None]
        flat: list[Any] = [
            n for pair in pairs for n in (pair if isinstance(pair, list) and len(pair) == 2 else [None])
        ]
        whole = all(isinstance(n, int) and not isinstance(n, bool) for n in flat)
        rising = whole and all(a < b for a, b in itertools.pairwise(flat))
        inside = rising and (not flat or (flat[0] >= 0 and flat[-1] <= channels and flat != [0, channels]))
        if not inside:
            self._fail(name, given, f"rising pairs of channels, some of {channels}")
        return tuple((start, stop) for start, stop in pairs)

    def _part(self, name: str) -> Mapping[str, Any] | None:
        given = self._given.pop(name, None)
        if given is None:
            return None
        fields = self._mapping(name, given)
        plain = all(isinstance(value, (str, int, float)) for value in fields.values())
        if not isinstance(fields.get("kind"), str) or not plain:
            self._fail(name, given, "an object with a 'kind'")
        return dict(fields)

    def _numbers(self, name: str, default: tuple[int, ...] | None, *, least: int = 0) -> tuple[int, ...]:
        if name not in self._given and default is not None:
            return default
        given = self._given.pop(name, None)
        if not isinstance(given, list) or (default is not None and len(given) != len(default)):
            self._fail(name, given, "one number per spatial dim")
        return tuple(self._whole(name, value, least) for value in given)

    def _number(self, name: str, *, least: int, default: int | None = None) -> int:
        return self._whole(name, self._given.pop(name, default), least)

    def _whole(self, name: str, value: Any, least: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _LARGEST:
            self._fail(name, value, f"a whole number from {least} to {_LARGEST}")
        return value

    def _flag(self, name: str) -> bool:
        value = self._given.pop(name, False)
        if not isinstance(value, bool):
            self._fail(name, value, "true or false")
        return value

    def _choice(self, name: str, choices: tuple[str, ...], **default: Any) -> Any:
        if name not in self._given and default:
            return default["default"]
        value = self._given.pop(name, None)
        if not isinstance(value, str) or value not in choices:
            self._fail(name, value, f"one of {list(choices)}")
        return value

    def _mapping(self, name: str, value: Any) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            self._fail(name, value, "an object")
        return value

    def _fail(self, name: str, value: Any, expected: str) -> Any:
        raise FormatError(f"{self._where}: {name} is {str(value)[:60]}, expected {expected}.")
