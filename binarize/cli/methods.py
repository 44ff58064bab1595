"""`binarize methods`: all methods with their options, and one method with its formulas and its gradients."""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from binarize.cli.examples import examples
from binarize.cli.method_facts import MethodFacts, facts_of
from binarize.cli.options import configure, option_rows
from binarize.cli.output import console, print_json, say
from binarize.cli.targets import check_output
from binarize.errors import BinarizeError

if TYPE_CHECKING:
    from binarize.methods import Method


@click.group(
    invoke_without_command=True,
    epilog=examples("""
        # all methods
        binarize methods
        # the formulas of one
        binarize methods show reactnet
    """),
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def methods(context: click.Context, as_json: bool) -> None:
    """List the methods, their papers, costs and options.

    Bits are those of a weight (W) and of an activation (A), with "5 x" where a layer becomes five binary
    ones. Parameters are those of a convolution of C to C channels beside its weights, with the method's norm,
    and of the activation behind it. Packed layers are computed by the kernels, or by torch for the reason
    given.
    """
    if context.invoked_subcommand is not None:
        return
    from binarize import methods as registered

    classes = {name: registered.get(name) for name in registered.names()}
    facts = {name: _facts(cls) for name, cls in classes.items()}
    if as_json:
        print_json({name: _document(cls, facts[name]) for name, cls in classes.items()})
        return
    out = console()
    table = _table("method", "paper", "year", "what it is")
    for name, cls in classes.items():
        year = "" if cls.year is None else str(cls.year)
        table.add_row(name, cls.paper, year, cls.describe().partition(": ")[2] or cls.describe())
    out.print(table)
    out.print()
    costs = _table("method", "bits", "parameters", "packed")
    for name, found in facts.items():
        if isinstance(found, str):
            costs.add_row(name, "", "", found)
            continue
        costs.add_row(name, found.bits, found.parameters, _packed(found))
    out.print(costs)
    out.print()
    options, shared = _table("option", "default", "takes"), ""
    for name, cls in classes.items():
        for option, kind, value in option_rows(cls):
            if (option, value) == ("bypass", "own"):
                shared = kind
            else:
                options.add_row(f"{name}: {option}", _text(value), kind)
    options.add_row("all others: bypass", "own", shared)
    out.print("Options, for --set option=value:", markup=False)
    out.print(options)
    say("Formulas and gradients: binarize methods show NAME --plot FILE.png")


@methods.command(
    epilog=examples("""
        # formulas, cost and gradients with an option of your choice
        binarize methods show bidense --set granularity=layer --plot bidense.png
    """)
)
@click.argument("name")
@click.option("--set", "settings", multiple=True, metavar="OPTION=VALUE", help="An option of the method.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw its gradients.")
@click.option("--force", is_flag=True, help="Replace FILE.png if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def show(name: str, settings: tuple[str, ...], plot: Path | None, force: bool, as_json: bool) -> None:
    """Show the formulas of a method, what it costs, and its gradients.

    The picture has the gradient that passes the sign of an activation and that of a weight, each at the
    start, in the middle and at the end of training if it changes.
    """
    method = configure(name, settings)
    if plot is not None:
        check_output(plot, force=force, option="--plot", ending=".png")
    found = facts_of(method)
    if as_json:
        print_json(_document(type(method), found))
    else:
        text = inspect.cleandoc(sys.modules[type(method).__module__].__doc__ or "")
        say(_wrapped(text or type(method).describe(), console().width))
        say()
        say(f"bits of a weight and an activation: {found.bits}")
        say(f"parameters of a layer of C channels beside its weights: {found.parameters}")
        say(f"packed layers: {_packed(found)}")
    if plot is None:
        return
    from binarize import files
    from binarize.cli.method_picture import picture

    files.write_bytes(plot, picture(method))
    if not as_json:
        say(f"written  {plot}")


def _wrapped(text: str, width: int) -> str:
    """A docstring as wide as the terminal: what starts with a name and a colon stays a line of its own.

    Paragraphs with indented lines (formulas, tables) are left as they are.
    """
    paragraphs: list[str] = []
    for paragraph in text.split("\n\n"):
        if not re.search(r"^ ", paragraph, re.MULTILINE):
            items = re.split(r"\n(?=[A-Z][\w ,]*:)", paragraph)
            lines = [textwrap.fill(" ".join(item.split()), width, break_on_hyphens=False) for item in items]
            paragraph = "\n".join(lines)
        paragraphs.append(paragraph)
    return "\n\n".join(paragraphs)


def _facts(cls: type[Method]) -> MethodFacts | str:
    """The facts, or why there are none: of a method of another package, anything may fail."""
    try:
        return facts_of(cls.create())
    except BinarizeError as error:
        return str(error)


def _document(cls: type[Method], found: MethodFacts | str) -> dict[str, Any]:
    return {
        "paper": cls.paper,
        "year": cls.year,
        "description": cls.describe(),
        **({"failure": found} if isinstance(found, str) else found.as_dict()),
        "options": {option: {"takes": kind, "default": value} for option, kind, value in option_rows(cls)},
    }


def _packed(found: MethodFacts) -> str:
    return found.packed if not found.reason else f"{found.packed}: {found.reason}"


def _table(*columns: str) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        last = index == len(columns) - 1
        table.add_column(column, style="" if index else "bold", overflow="fold", no_wrap=not last)
    return table


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, (bool, type(None))) else str(value)
