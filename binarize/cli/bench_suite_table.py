"""The table of `binarize bench --suite`: each row is printed when it is measured, so widths are fixed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from binarize.cli.output import console, say, tell
from binarize.tables import BINARY, SLOWER, WORSE, Name

_HEADS = {
    "channels_last": "channels last",
    "onnxruntime": "ONNX RT",
    "onnxruntime-int8": "ONNX RT int8",
    "openvino": "Open VINO",
    "openvino-bf16": "Open VINO bf16",
    "openvino-int8": "Open VINO int8",
}
_LEAST_NAME, _MOST_NAME = 17, 30
_NARROWEST = 5


class SuiteTable:
    """Rows of milliseconds, and of ratios at the end.

    Args:
        names: of all networks to come.
        packed: names of packed networks.
        against: names of baselines.

    Attributes:
        left_out: baselines that do not fit on the terminal.
    """

    def __init__(self, names: Sequence[str], packed: Sequence[str], against: Sequence[str]) -> None:
        self.left_out: list[str] = []
        shown = list(against)
        while self._rest(packed, shown) < _LEAST_NAME and shown:
            self.left_out.insert(0, shown.pop())
        longest = max(map(len, map(_short, names)), default=_LEAST_NAME)
        self._name = min(max(_LEAST_NAME, longest), max(_LEAST_NAME, self._rest(packed, shown)), _MOST_NAME)
        self._packed, self._shown = list(packed), shown
        self._headed = False

    def show(self, row: Mapping[str, Any]) -> None:
        """A network's times; the fastest baseline has a star. One that failed: why."""
        name = _short(row["network"])
        if "error" in row:
            tell(f"{name}: {row['error']}", WORSE)
            return
        medians = {variant["name"]: variant["median_ms"] for variant in row["variants"]}
        ratios = row["ratios"]
        cells = {name: _digits(ms) + "*" * (name == ratios["best"]) for name, ms in medians.items()}
        best = {packed: ratios[packed].get("best") for packed in self._packed}
        slower = any(ratio is not None and ratio < 1 for ratio in best.values())
        self._print(name, cells, best, SLOWER if slower else "")

    def ratios(self, label: str, packed: str, values: Mapping[str, float]) -> None:
        """A row of ratios to one packed network, by baseline and for `best`."""
        cells = {name: _digits(values[name]) for name in self._shown if name in values}
        self._print(label, cells, {packed: values.get("best")}, BINARY)

    def _print(
        self, label: str, cells: Mapping[str, str], best: Mapping[str, float | None], style: str
    ) -> None:
        from rich.table import Table

        table = Table(
            box=None, pad_edge=False, padding=(0, 1, 0, 0), show_header=not self._headed, header_style=""
        )
        self._headed = True
        table.add_column("network", width=self._name)
        values = []
        for name in self._packed:
            table.add_column(name.removeprefix("packed, "), justify="right", width=6)
            table.add_column("x best", justify="right", width=4)
            ratio = best.get(name)
            values += [cells.get(name, ""), "" if ratio is None else _digits(ratio)]
        for name in self._shown:
            table.add_column(_HEADS.get(name, name), justify="right", width=_width(name))
            values.append(cells.get(name, "-"))
        table.add_row(Name(label, behind="._:"), *values, style=style or None)
        console().print(table)

    def _rest(self, packed: Sequence[str], shown: Sequence[str]) -> int:
        """Columns left for the names."""
        return console().width - 12 * len(packed) - sum(_width(name) + 1 for name in shown) - 1


def print_summary(
    document: Mapping[str, Any], table: SuiteTable, setting_lines: Callable[[dict[str, Any]], list[str]]
) -> None:
    """What failed, what the columns are, and the ratios over all networks.

    Args:
        document: what --json prints.
        table: the one whose rows were printed.
        setting_lines: gives the options that were timed, of a row.
    """
    rows, found = document["rows"], document["summary"]
    for row in rows:
        for name, why in row.get("failed", {}).items():
            tell(f"{_short(row['network'])}, {name}: {why}.", WORSE)
    if not found:
        return
    say()
    say("Times as long as the packed network: geometric mean, and the least")
    for packed, by_name in found.items():
        short = packed.removeprefix("packed, ")
        table.ratios(f"{short}: mean", packed, {n: f["geometric_mean"] for n, f in by_name.items()})
        table.ratios(f"{short}: least", packed, {n: f["least"] for n, f in by_name.items()})
    say()
    timed = next(row for row in rows if "error" not in row)
    for line in setting_lines(timed):
        tell(line)
    layer = "; layer: granularity=layer, the rest alike" if len(found) > 1 else ""
    tell(f"Milliseconds, medians. packed: these options{layer}. x best: times as fast as the fastest (*).")
    for packed, by_name in found.items():
        if best := by_name.get("best"):
            count = best["networks"]
            tell(
                f"- {packed}: {best['geometric_mean']:.2f} times as fast as the fastest of the others on "
                f"each network (geometric mean of {count}), at least {best['least']:.2f} times "
                f"({_short(best['least_network'])})."
            )
    if table.left_out:
        tell(f"Left out: {', '.join(table.left_out)}; a wider terminal, --out or --json shows all.")


def _short(name: str) -> str:
    return name.partition("?")[0]


def _digits(number: float) -> str:
    """About three digits; what is 10,000 ms or more, in seconds."""
    if number >= 9999.5:
        return f"{number / 1000:.0f}s"
    places = 0 if number >= 99.95 else 1 if number >= 9.995 else 2
    return f"{number:.{places}f}"


def _width(name: str) -> int:
    return max(_NARROWEST, *map(len, _HEADS.get(name, name).split()))
