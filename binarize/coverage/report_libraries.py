"""The part of the page that is about networks of other libraries than timm: a line for each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from binarize.coverage.record import Record

_INTRODUCTION = (
    "## Networks of other libraries",
    "",
    "Made by `binarize coverage --library smp,torchvision,transformers`. The networks have random weights;",
    "those of transformers have the structure of the published models and small widths. The checks are those",
    "above, and:",
    "",
    "- the final layers that stay float are those that give the outputs by the network's source, no others;",
    "- the output of the converted network has the structure of the float network's;",
    "- in networks of up to 40 binary layers (*packed*), packed layers compute the same as the trained ones,",
    "  and a packed file gives the same output, bit for bit.",
    "",
    "| column | meaning |",
    "|---|---|",
    "| converted | of all convolutions and linear layers that the network holds |",
    "| final layers, by output | those that stay float; in parentheses the functions behind them |",
    "| notes | how many notes the plan prints below its table |",
)
_COLUMNS = ("library", "network", "task", "converted", "final layers, by output", "notes", "result")


def libraries_section(records: Sequence[Record]) -> list[str]:
    """Lines of the section.

    Args:
        records: of networks of other libraries, one for each network and method.
    """
    versions: dict[str, str] = {}
    for record in records:
        versions |= record.versions
    lines = [*_INTRODUCTION, "", sentence(versions), ""]
    for method in dict.fromkeys(record.method for record in records):
        group = [record for record in records if record.method == method]
        passed = sum(record.status == "pass" for record in group)
        lines += [f"### {method}: {passed} of {len(group)} pass", "", *table(_COLUMNS, map(_row, group)), ""]
    return lines


def _row(record: Record) -> tuple[str, ...]:
    return (
        record.library,
        f"`{record.name}`",
        record.family,
        f"{record.convs_converted + record.linears_converted:,} of {record.convs + record.linears:,}",
        final_layers(record) or "-",
        str(len(record.notes) or "-"),
        _result(record),
    )


def final_layers(record: Record) -> str:
    """`out`, `aux`: `classifier.4`; outputs of the same layers and functions together."""
    groups: dict[tuple[tuple[str, ...], tuple[str, ...]], list[str]] = {}
    for output in record.outputs:
        if output["kept"]:
            key = tuple(output["kept"]), tuple(output["functions"])
            groups.setdefault(key, []).append(output["name"])
    parts = []
    for (kept, functions), names in groups.items():
        outputs = ", ".join(as_ranges([name for name in names if name]))
        behind = f" ({', '.join(functions)})" if functions else ""
        layers = ", ".join(f"`{name}`" for name in as_ranges(kept))
        parts.append(f"{outputs}: {layers}{behind}" if outputs else f"{layers}{behind}")
    return "; ".join(parts)


def as_ranges(names: Iterable[str]) -> list[str]:
    """Names, those that differ by numbers only as one: `head.0`, `head.1`, `head.2` are `head.0-2`."""
    groups: dict[tuple[str, ...], list[list[str]]] = {}
    for name in names:
        parts = re.split(r"(\d+)", name)
        groups.setdefault(tuple(parts[::2]), []).append(parts[1::2])
    found = []
    for texts, numbers in groups.items():
        columns = [_range([int(n) for n in column]) for column in zip(*numbers, strict=True)]
        found.append("".join(a + b for a, b in zip(texts, [*columns, ""], strict=True)))
    return found


def _range(numbers: Sequence[int]) -> str:
    values = sorted(set(numbers))
    if len(values) > 1 and values == list(range(values[0], values[-1] + 1)):
        return f"{values[0]}-{values[-1]}"
    return ",".join(map(str, values))


def _result(record: Record) -> str:
    if record.status == "pass" and "pack" in record.seconds:
        refused = len(record.not_packed)
        return f"pass, packed{f' but for {refused}' if refused else ''}"
    if record.status != "fail":
        return record.status
    return f"fail: {record.failed}: {record.reason}"


def sentence(versions: dict[str, str]) -> str:
    """A sentence of versions."""
    return "With " + ", ".join(f"{name} {number}" for name, number in versions.items()) + "."


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
