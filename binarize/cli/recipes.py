"""`binarize recipes`: what comes with the toolkit, and what a recipe says in full."""

from __future__ import annotations

import click

from binarize.cli.output import console, print_json, say


@click.group(invoke_without_command=True)
@click.pass_context
def recipes(context: click.Context) -> None:
    """List the recipes that come with the toolkit."""
    if context.invoked_subcommand is not None:
        return
    from rich.table import Table

    from binarize import recipes as known

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("recipe", style="bold", no_wrap=True)
    table.add_column("method", no_wrap=True)
    table.add_column("about", overflow="fold")
    for name in known.names():
        recipe = known.load(name)
        table.add_row(name, "float" if recipe.method is None else recipe.method.name, recipe.about)
    console().print(table)


@recipes.command()
@click.argument("name")
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", help="Another value: training.lr=1e-3."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def show(name: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Print all that the recipe NAME says, with what it extends and all defaults."""
    import yaml

    from binarize import recipes as known

    plain = known.load(name, settings).model_dump(mode="json")
    if as_json:
        print_json(plain)
    else:
        say(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=78).rstrip())
