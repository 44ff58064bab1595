"""`binarize zoo`: the trained networks that come with the toolkit."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from binarize.cli.examples import examples
from binarize.cli.output import console, print_json, say, shows_progress, size, tell
from binarize.errors import ConfigError, FormatError
from binarize.tables import BINARY, FLOAT, better


@click.group(
    invoke_without_command=True,
    epilog=examples("""
        # all networks with their figures
        binarize zoo
        # use one in place of a file
        binarize summary zoo:camvid-bidense
    """),
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def zoo(context: click.Context, as_json: bool) -> None:
    """List the trained networks that come with the toolkit.

    `zoo:NAME` can be used wherever a file is expected.
    """
    if context.invoked_subcommand is not None:
        return
    from rich.table import Table

    from binarize.files import zoo as entries
    from binarize.training.figures import figures_in

    found = [_metrics(name) for name in entries.names()]
    if as_json:
        print_json(found)
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("network", no_wrap=True)
    for head in ("file", "figure", "floor"):
        table.add_column(head, justify="right")
    for metrics in found:
        known = figures_in(metrics["figures"])
        name = known.main
        *_, floor = (figures[name] for figures in metrics["floors"].values())  # the last one is the best
        shown = f"{known.title}{better(name)} {metrics['figures'][name]:.3f}"
        style = FLOAT if metrics["recipe"]["method"] is None else BINARY
        table.add_row(metrics["name"], size(metrics["bytes"]), shown, f"{floor:.3f}", style=style)
    console().print(table)


@zoo.command(
    epilog=examples("""
        # data, figures and limits of a network
        binarize zoo show camvid-bidense
    """)
)
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print what was measured, as one JSON document.")
def show(name: str, as_json: bool) -> None:
    """Print the card of the network NAME: data, figures, limits."""
    from binarize.cli.card import card
    from binarize.files import zoo as entries

    if as_json:
        print_json(_metrics(name))
        return
    text = (entries.entry(name) / entries.CARD).read_text(encoding="utf-8")
    for part in card(text):
        if isinstance(part, str):
            tell(part)
        else:
            console().print(part)


@zoo.command(
    epilog=examples("""
        # an entry in a zoo of your own
        binarize zoo add runs/tiny-bidense --into zoo --name tiny
    """)
)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--into",
    "--out",
    "--output",
    "-o",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the zoo.",
)
@click.option("--recipe", "recipe_name", default="", help="Name of their recipe.")
@click.option("--name", help="Name of the entry.  [default: from the recipe]")
@click.option("--data", "root", type=click.Path(path_type=Path), help="Folder of the data set.")
def add(
    runs: tuple[Path, ...], into: Path | None, recipe_name: str, name: str | None, root: Path | None
) -> None:
    """Make entries of the zoo.

    RUNS are folders that `binarize train` wrote. Their networks are packed and measured, and get a card.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from binarize.comparison.entry import add_entry
    from binarize.files import zoo as entries

    if len(runs) > 1 and (name or recipe_name):
        raise ConfigError("zoo add: --name and --recipe are for one run.")
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(sys.stderr), disable=not shows_progress(), transient=True) as bar:
        task = bar.add_task("")

        def report(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        made = [
            add_entry(
                run, into or entries.folder(), name=name, recipe_name=recipe_name, root=root, report=report
            )
            for run in runs
        ]
    for path in made:
        say(f"written  {path}")


def _metrics(name: str) -> dict[str, Any]:
    from binarize.files import zoo as entries

    path = entries.entry(name) / entries.METRICS
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise FormatError(f"{path}: cannot be read ({error}).") from error
