"""`binarize methods`: all methods with their options."""

from __future__ import annotations

import click

from binarize.cli.options import option_rows
from binarize.cli.output import console, print_json


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def methods(as_json: bool) -> None:
    """List the methods, their papers and their options."""
    from binarize import methods as registered

    classes = {name: registered.get(name) for name in registered.names()}
    if as_json:
        print_json(
            {
                name: {
                    "paper": cls.paper,
                    "description": cls.describe(),
                    "options": {
                        option: {"takes": kind, "default": value} for option, kind, value in option_rows(cls)
                    },
                }
                for name, cls in classes.items()
            }
        )
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("method", style="bold", no_wrap=True)
    table.add_column("paper", no_wrap=True)
    table.add_column("what it is", overflow="fold")
    for name, cls in classes.items():
        table.add_row(name, cls.paper, cls.describe().partition(": ")[2] or cls.describe())
    options = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    options.add_column("option", style="bold", no_wrap=True)
    options.add_column("default", no_wrap=True)
    options.add_column("takes", overflow="fold")
    for name, cls in classes.items():
        for option, kind, value in option_rows(cls):
            options.add_row(f"{name}: {option}", _text(value), kind)
    out = console()
    out.print(table)
    out.print()
    out.print("Options, for --set option=value:", markup=False)
    out.print(options)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, (bool, type(None))) else str(value)
