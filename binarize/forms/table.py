"""The forms of networks as a table, in Markdown or as text; tables of earlier runs that new rows join."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from binarize.forms.made import KINDS
from binarize.tables import better
from binarize.training.figures import ALL

Document = Mapping[str, Any]
"""What `measure` gives."""

_MEGA = 1e6


def merged(old: Document, new: Document) -> dict[str, Any]:
    """The rows of both; of a form that is in both, what was measured last.

    Args:
        old: of earlier runs.
        new: of this one.
    """
    data = {name: dict(group) for name, group in old["data"].items()}
    for name, group in new["data"].items():
        rows = {_key(row): row for row in data.get(name, {}).get("rows", [])}
        for row in group["rows"]:
            rows[_key(row)] = {**rows.get(_key(row), {}), **row}
        data[name] = {**data.get(name, {}), **group, "rows": list(rows.values())}
    return {"data": data}


def ordered(group: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows by kind of numbers, those of one kind in the order in which they were measured."""
    return sorted(group["rows"], key=lambda row: KINDS.index(row["form"]))


def figure_names(group: Mapping[str, Any]) -> dict[str, str]:
    """Names of the figures that a table shows, and their heads, without the arrow."""
    known = ALL[group["task"]]
    return {name: known.columns[name] for name in known.line}


def shown(name: str, value: float, title: str) -> float:
    """A figure in the unit of its head."""
    return 100 * value if "%" in title else value


def markdown(document: Document) -> str:
    """A table for each data set, with a line above it that says what was measured where."""
    parts = []
    for name, group in document["data"].items():
        head, *rows = list(_cells(group))
        lines = [
            "| " + " | ".join(cells) + " |"
            for cells in (head, ["---"] * 3 + ["---:"] * (len(head) - 3), *rows)
        ]
        parts.append("\n".join([f"{about(name, group)}", "", *lines]))
    return "\n\n".join(parts) + "\n"


def text(document: Document) -> str:
    """The same for a terminal."""
    parts = []
    for name, group in document["data"].items():
        table = list(_cells(group))
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(
                c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in table
        ]
        parts.append("\n".join([about(name, group), "", *(line.rstrip() for line in lines)]))
    return "\n\n".join(parts) + "\n"


def about(name: str, group: Mapping[str, Any]) -> str:
    """What was measured, and where, in a few words."""
    height, width = group["size"]
    words = f"{name}, {group['images']} images; one image of {height}x{width}"
    if "machine" in group:
        machine, threads = group["machine"], group["threads"]
        versions = ", ".join(f"{package} {version}" for package, version in group["packages"].items())
        counted = f"{threads} thread{'s' * (threads != 1)}"
        words += (
            f" on {counted}, {machine['cpu']} ({machine['kernels']}); torch {machine['torch']}, {versions}"
        )
    if len({row.get("timed") for row in group["rows"]}) > 1:
        words += "; not all rows were timed in turn"
    return f"{words}."


def _cells(group: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    names = figure_names(group)
    heads = [f"{head}{better(name)}" for name, head in names.items()]
    yield ["network", "form", "runs on", *heads, "file", "ms"]
    for row in ordered(group):
        figures = row.get("figures", {})
        cells = [
            f"{shown(name, figures[name], head):.{2 if '%' in head else 3}f}" if name in figures else "-"
            for name, head in names.items()
        ]
        ms = _three_digits(row["ms"]) if "ms" in row else "-"
        yield [row["network"], row["form"], row["runner"], *cells, megabytes(row), ms]


def megabytes(row: Mapping[str, Any]) -> str:
    """The size of its file: `22.1 MB`, `1.07 MB`, `0.05 MB`."""
    size = row["bytes"] / _MEGA
    return f"{size:.1f} MB" if size >= 10 else f"{size:.2f} MB"


def _key(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["place"], row["form"], row["runner"]


def _three_digits(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:#.3g}"
