"""`binarize tables`: the tables of the BiDense paper beside what the toolkit counts and what runs reach."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from binarize.cli.examples import examples
from binarize.cli.output import console, print_json, progress_bar, say, tell
from binarize.cli.speed import importing, one_thread
from binarize.errors import ConfigError
from binarize.tables import BINARY, FLOAT, better

if TYPE_CHECKING:
    from rich.table import Table

    from binarize.comparison.runs import KnownRun

_LEAST = ("delta3", "delta2", "log10", "rmse_log", "rmse")
"""Figures that a narrow terminal leaves out, the first one first."""


@click.command(
    epilog=examples("""
        # the ablations, with your runs
        binarize tables 4 --runs runs
        # all four, for a document
        binarize tables --markdown
    """)
)
@click.argument("number", required=False, type=click.IntRange(1, 4), metavar="[1|2|3|4]")
@click.option(
    "--runs",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Fill accuracies from the runs in this folder and in folders in it.",
)
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown, all columns.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def tables(number: int | None, folder: Path | None, as_markdown: bool, as_json: bool) -> None:
    """Print Tables 1 to 4 of the BiDense paper beside our figures.

    Costs have three columns: as printed, counted as the paper does, and counted honestly. The networks are
    counted without weights. A run belongs to a row with the same data set, network, encoder and method.
    Several runs that differ only in their seed give mean and deviation. Other runs, and the entries of the
    zoo on these data sets, are listed below, each with its network.
    """
    if as_markdown and as_json:
        raise ConfigError("tables: --markdown or --json, not both.")
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"--runs {folder}: no such folder.")
    with importing():
        from binarize.comparison import paper, paper_table

    runs, faults = _runs(folder)
    chosen = list(paper.TABLES) if number is None else [number]
    documents = []
    with progress_bar("{task.description}") as bar, one_thread():
        task = bar.add_task("")
        for which in chosen:
            bar.reset(task)

            def report(done: int, total: int, label: str, which: int = which) -> None:
                bar.update(task, description=f"table {which}: {label}", completed=done, total=total)

            documents.append(paper_table.as_dict(paper.TABLES[which], runs, report))
    if as_json:
        print_json({"tables": documents, "not_read": faults})
    elif as_markdown:
        click.echo("\n".join(map(paper_table.markdown, documents)), nl=False)
    else:
        for index, document in enumerate(documents):
            if index:
                say()
            _print(document)
    if not as_json:
        for fault in faults:
            click.echo(f"Warning: {fault}", err=True)


def _runs(folder: Path | None) -> tuple[list[KnownRun], list[str]]:
    from binarize.comparison.runs import find_runs, zoo_runs

    found, faults = find_runs(folder) if folder is not None else ([], [])
    return [*found, *zoo_runs()], faults


def _print(document: dict[str, Any]) -> None:
    from binarize.comparison import paper_table

    height, width = document["counted_at"]
    tell(f"Table {document['table']}. {document['title']}; costs at {height}x{width}.")
    marks = {note: str(i) for i, note in enumerate(paper_table.footnotes(document), start=1)}
    say()
    console().print(_costs(document, marks))
    left_out: list[str] = []
    for data in document["data"]:
        say()
        left_out += _print_figures(document, data)
    say()
    for note, mark in marks.items():
        tell(f"[{mark}]  {note}")
    for remark in document["remarks"]:
        tell(remark)
    if left_out:
        names = dict.fromkeys(paper_table.FIGURES[name] for name in left_out)
        tell(f"Left out: {', '.join(names)}; a wider terminal, --markdown or --json shows all.")
    for run in document["not_measured"]:
        tell(f"- {run['place']}: {run['reason']}")
    if document["other_runs"]:
        tell("Other runs, of other networks or parts of the data:")
        for run in document["other_runs"]:
            tell(paper_table.other_line(run))


def _costs(document: dict[str, Any], marks: dict[str, str]) -> Table:
    from binarize.comparison import paper_table

    grid = _grid()
    for title in paper_table.COSTS.values():
        for source in paper_table.SOURCES:
            grid.add_column(f"{title}\n{source}", justify="right", no_wrap=True)
    for row in document["rows"]:
        cells = [
            paper_table.cost(name, row["costs"][name][source])
            for name in paper_table.COSTS
            for source in paper_table.SOURCES
        ]
        mark = f" \\[{marks[row['note']]}]" if row["note"] else ""
        grid.add_row(f"{row['label']}{mark}", *cells, style=_style(row))
    return grid


def _print_figures(document: dict[str, Any], data: str) -> list[str]:
    """As many figures of a data set as fit; the names of those left out."""
    from binarize.comparison import paper, paper_table

    if len(document["data"]) > 1:
        say(paper.DATA[data].title)
    names, left_out = paper_table.figure_names(document, data), []
    terminal = console()
    grid = _figures(document, data, names)
    for least in _LEAST:
        if terminal.measure(grid, options=terminal.options.update(width=10_000)).maximum <= terminal.width:
            break
        if least in names:
            names.remove(least)
            left_out.append(least)
            grid = _figures(document, data, names)
    terminal.print(grid)
    return left_out


def _figures(document: dict[str, Any], data: str, names: list[str]) -> Table:
    from binarize.comparison import paper_table

    filled = any(row["runs"][data]["figures"] for row in document["rows"])
    grid = _grid()
    for name in names:
        title = f"{paper_table.FIGURES[name]}{better(name)}"
        for source in ("printed", "ours") if filled else ("printed",):
            grid.add_column(f"{title}\n{source}", justify="right", no_wrap=True)
    for row in document["rows"]:
        cells = []
        for name in names:
            cells.append(paper_table.figure(name, row["printed"][data].get(name)))
            cells += [paper_table.ours(row, data, name)] * filled
        grid.add_row(row["label"], *cells, style=_style(row))
    return grid


def _grid() -> Table:
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column("network", no_wrap=True)
    return grid


def _style(row: dict[str, Any]) -> str:
    return FLOAT if row["method"] is None else BINARY
