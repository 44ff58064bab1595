"""Cards of the zoo, which are Markdown, for a terminal or a pipe: paragraphs and tables of its width."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def card(text: str) -> Iterator[str | Table]:
    """The parts of a card, in order: lines of text, and its tables.

    Nothing is left out or added: output to a pipe is still Markdown, except for the rules of tables.
    """
    rows: list[list[str]] = []
    for line in [*text.rstrip().splitlines(), ""]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip().strip("|").split("|")])
            continue
        if rows:
            yield _table(rows)
            rows = []
        yield line


def _table(rows: list[list[str]]) -> Table:
    from rich.table import Table

    head, rules, *body = rows
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name, rule in zip(head, rules, strict=True):
        table.add_column(name, justify="right" if rule.endswith(":") else "left")
    for row in body:
        table.add_row(*row)
    return table
