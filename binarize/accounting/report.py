"""The result of counting a network: numbers per layer, totals, and how they print."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from binarize.tables import BINARY, FLOAT, Name, plain, widest_part


@dataclass(frozen=True, kw_only=True)
class LayerCount:
    """One layer.

    Attributes:
        name: dotted path of its module.
        kind: class of its module.
        binary_params: bits of binary weights: as many as there are weights, times their bits.
        float_params: parameters of 32 bits.
        binary_macs: multiply-accumulates of single bits, those of weights times those of activations for each
            product; None if some could not be counted.
        float_macs: multiply-accumulates of floats; None if some could not be counted.
        packed_bytes: of its tensors in a packed file.
        weight_bits: of a weight of a binary layer; 0 for other layers.
        activation_bits: likewise of an activation.
    """

    name: str
    kind: str
    binary_params: int = 0
    float_params: int = 0
    binary_macs: int | None = 0
    float_macs: int | None = 0
    packed_bytes: int = 0
    weight_bits: int = 0
    activation_bits: int = 0

    @property
    def several_bits(self) -> bool:
        """Whether its weights or activations have more than one bit."""
        return max(self.weight_bits, self.activation_bits) > 1

    @property
    def params(self) -> int:
        """How many parameters it has, whatever their bits."""
        return self.binary_params // max(1, self.weight_bits) + self.float_params

    @property
    def macs(self) -> int:
        """How many multiply-accumulates it performs, whatever the bits of their factors."""
        each = max(1, self.weight_bits * self.activation_bits)
        return (self.binary_macs or 0) // each + (self.float_macs or 0)


@dataclass(frozen=True, kw_only=True)
class Uncounted:
    """Something that the totals do not contain.

    Attributes:
        name: dotted path of its module, "" for the model itself.
        reason: why it could not be counted.
    """

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a network costs; prints as a table.

    Under the convention `paper` the counts of work are operations instead of multiply-accumulates and the
    counts of parameters hold buffers too: `binarize.accounting.paper`.

    Attributes:
        model: class of the network.
        inputs: shapes of what it was run on.
        convention: `honest` or `paper`.
        layers: in the order of definition.
        uncounted: what is missing in the totals; they are lower bounds if this is not empty.
        header_bytes: of the packed file that `binarize deploy` writes of the network; None if not known.
    """

    model: str
    inputs: tuple[tuple[int, ...], ...]
    convention: str
    layers: tuple[LayerCount, ...]
    uncounted: tuple[Uncounted, ...] = ()
    header_bytes: int | None = None

    @property
    def binary_params(self) -> int:
        """Bits of binary weights."""
        return sum(layer.binary_params for layer in self.layers)

    @property
    def float_params(self) -> int:
        """Parameters of 32 bits."""
        return sum(layer.float_params for layer in self.layers)

    @property
    def binary_macs(self) -> int:
        """Work between binary factors, of one run."""
        return sum(layer.binary_macs or 0 for layer in self.layers)

    @property
    def float_macs(self) -> int:
        """Work between floats, of one run."""
        return sum(layer.float_macs or 0 for layer in self.layers)

    @property
    def params(self) -> float:
        """binary_params / 32 + float_params (BiDense, arXiv 2411.10346, Section 4)."""
        return self.binary_params / 32 + self.float_params

    @property
    def ops(self) -> float:
        """binary_macs / 64 + float_macs (BiDense, arXiv 2411.10346, Section 4)."""
        return self.binary_macs / 64 + self.float_macs

    @property
    def packed_bytes(self) -> int:
        """Size of the packed file: of its tensors, and of its header if that is known."""
        return sum(layer.packed_bytes for layer in self.layers) + (self.header_bytes or 0)

    def of_file(self, size: int | None) -> Summary:
        """The same summary with the size of the packed file in bytes; None if there is no packed file."""
        tensors = sum(layer.packed_bytes for layer in self.layers)
        return dataclasses.replace(self, header_bytes=None if size is None else size - tensors)

    @property
    def float_bytes(self) -> int:
        """Size of all its parameters in 32 bits each."""
        return 4 * sum(layer.params for layer in self.layers)

    @property
    def binary_share(self) -> float:
        """The part of the work that is binary, 0 to 1."""
        work = self.binary_macs + self.float_macs
        return self.binary_macs / work if work else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values that JSON can hold."""
        totals = ("binary_params", "float_params", "binary_macs", "float_macs", "params", "ops")
        return {
            "model": self.model,
            "inputs": [list(shape) for shape in self.inputs],
            "convention": self.convention,
            **{name: getattr(self, name) for name in totals},
            "packed_bytes": self.packed_bytes,
            "header_bytes": self.header_bytes,
            "float_bytes": self.float_bytes,
            "binary_share": self.binary_share,
            "layers": [dataclasses.asdict(layer) for layer in self.layers],
            "uncounted": [dataclasses.asdict(item) for item in self.uncounted],
        }

    def __str__(self) -> str:
        return plain(self).rstrip("\n")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = self._table()
        if console.measure(table, options=options.update(width=10_000)).minimum > options.max_width:
            table = self._table(kinds=False)  # else digits of numbers would be cut off
        yield table
        yield Text(self._totals())
        if self.uncounted:
            lines = [f"  {item.name or '(model)'}: {item.reason}" for item in self.uncounted]
            yield Text("\n".join(["not counted (the totals are lower bounds):", *lines]))

    def _table(self, *, kinds: bool = True) -> Table:
        work = "MACs" if self.convention == "honest" else "OPs"
        shapes = ", ".join("x".join(map(str, shape)) for shape in self.inputs)
        table = Table(
            title=f"{self.model} on {shapes}, {self.convention} convention",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
            show_footer=True,
            title_justify="left",
        )
        sums = (self.binary_params, self.float_params, self.binary_macs, self.float_macs, self.packed_bytes)
        heads = ("params\n1-bit", "params\n32-bit", f"{work}\n1-bit", f"{work}\n32-bit", "bytes\npacked")
        table.add_column("layer", "total", min_width=widest_part(layer.name for layer in self.layers))
        bits = any(layer.several_bits for layer in self.layers)
        if kinds:
            table.add_column("kind", overflow="fold", max_width=15)
        if bits:
            table.add_column("bits", no_wrap=True)
        for head, total in zip(heads, sums, strict=True):
            table.add_column(head, short(total), justify="right", no_wrap=True)
        for layer in self.layers:
            numbers = (layer.binary_params, layer.float_params, layer.binary_macs, layer.float_macs)
            cells = ["?" if n is None else short(n) for n in (*numbers, layer.packed_bytes)]
            style = BINARY if layer.binary_params or layer.binary_macs else FLOAT
            kind = [Text(layer.kind)] * kinds
            each = f"W{layer.weight_bits}A{layer.activation_bits}" if layer.weight_bits else ""
            table.add_row(Name(layer.name or "(model)"), *kind, *[each] * bits, *cells, style=style)
        if self.header_bytes is not None:
            cells = ["-"] * 4 + [short(self.header_bytes)]
            table.add_row("(header of the file)", *[""] * (kinds + bits), *cells)
        return table

    def _totals(self) -> str:
        work = "MACs" if self.convention == "honest" else "OPs"
        params, macs = (sum(getattr(layer, name) for layer in self.layers) for name in ("params", "macs"))
        lines = [
            f"params = 1-bit / 32 + 32-bit = {self.params:,.0f}{_times(params, self.params)}",
            f"OPs = 1-bit / 64 + 32-bit = {short(self.ops, 4)}{_times(macs, self.ops)}",
            f"{self._size()}, in 32 bits {_bytes(self.float_bytes)}"
            + _times(self.float_bytes, self.packed_bytes),
            f"{100 * self.binary_share:.1f} % of the {work} are binary",
        ]
        return "\n".join(lines)

    def _size(self) -> str:
        """The size as text: of a packed file, or of its tensors alone."""
        if self.header_bytes is not None:
            return f"packed file {self.packed_bytes:,} bytes (header {self.header_bytes:,})"
        packed = "packed" if self.binary_params else "size"
        return f"{packed} {_bytes(self.packed_bytes)} of tensors (without a file's header)"


def short(number: float, digits: int = 3) -> str:
    """A number as short text: 0 as "-", else `digits` significant digits and K, M, G or T."""
    if number == 0:
        return "-"
    if number < 1000:
        return f"{number:.0f}"
    power = 0
    while number >= 999.5 and power < 5:
        number /= 1000
        power += 1
    return f"{number:.{max(0, digits - len(str(int(number))))}f}{' KMGTP'[power]}"


def _bytes(number: float) -> str:
    """A number of bytes as short text: `455.4 kB`, as other commands print it."""
    text = short(number, 4)
    unit = text[-1] if text[-1].isalpha() else ""
    return f"{text.removesuffix(unit)} {unit.replace('K', 'k')}B" if unit else f"{number:.0f} bytes"


def _times(whole: float, part: float) -> str:
    return f", {whole / part:.1f} times less than in 32 bits" if part and whole > part else ""
