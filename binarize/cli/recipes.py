"""`binarize recipes`: list the recipes of the toolkit, and print one in full."""

from __future__ import annotations

import click

from binarize.cli.examples import examples
from binarize.cli.output import print_json, say


@click.group(
    invoke_without_command=True,
    epilog=examples("""
        # all recipes
        binarize recipes
        # all settings of one
        binarize recipes show shapes/tiny-bidense
    """),
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def recipes(context: click.Context, as_json: bool) -> None:
    """List the recipes that come with the toolkit."""
    if context.invoked_subcommand is not None:
        return
    from itertools import groupby

    from binarize import recipes as known
    from binarize.recipes.listing import listing

    if as_json:
        print_json({name: known.load(name).about for name in known.names()})
        return
    for folder, names in groupby(known.names(), key=lambda name: name.rpartition("/")[0]):
        for line in listing({name: known.load(name).about for name in names}, group=folder):
            say(line)


@recipes.command(
    epilog=examples("""
        # with another value
        binarize recipes show shapes/tiny-bidense --set training.epochs=10
    """)
)
@click.argument("name")
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", help="Another value: training.lr=1e-3."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def show(name: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Print the recipe NAME in full, with all defaults."""
    import yaml

    from binarize import recipes as known

    plain = known.load(name, settings).model_dump(mode="json")
    if as_json:
        print_json(plain)
    else:
        say(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=78).rstrip())
