"""`binarize data`: list data sets, and check one."""

from __future__ import annotations

from pathlib import Path

import click

from binarize.cli.data_check import check
from binarize.cli.examples import examples
from binarize.cli.output import console, print_json, progress_bar, say, tell
from binarize.tables import Name, better


@click.group(
    epilog=examples("""
        # the data sets that recipes can name
        binarize data list
        # what a folder of images and masks holds
        binarize data check photos
    """)
)
def data() -> None:
    """List and check data sets."""


@data.command(
    "list",
    epilog=examples("""
        # as a JSON document
        binarize data list --json
    """),
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def list_(as_json: bool) -> None:
    """List the data sets that recipes can name, with their layouts."""
    from rich.table import Table

    from binarize.data import catalog

    infos = [catalog.info(name) for name in catalog.names()]
    if as_json:
        print_json([{"name": i.name, "task": i.task, "splits": i.splits, "layout": i.layout} for i in infos])
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("data set", no_wrap=True)
    table.add_column("task")
    table.add_column("splits", no_wrap=True)
    table.add_column("in its folder")
    for i in infos:
        layout = i.layout or "drawn, no files"
        splits = " ".join(i.splits) or "any"
        table.add_row(i.name, i.task or "segmentation or depth", splits, Name(layout, behind="/_,"))
    console().print(table)


data.add_command(check)


@data.command(
    epilog=examples("""
        # how good is a prediction that ignores the image?
        binarize data floor shapes/tiny-bidense
    """)
)
@click.argument("recipe")
@click.option("--data", "root", type=click.Path(path_type=Path), help="Folder of the data set.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Another value in the recipe.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def floor(recipe: str, root: Path | None, settings: tuple[str, ...], as_json: bool) -> None:
    """Measure predictions that ignore the image, for comparison.

    One value for all pixels, and one for each position in the image, both from the truths of the training
    split of RECIPE's data; for classification the most frequent class. They are measured on the test split. A
    network should be better.
    """
    from binarize import recipes
    from binarize.training.baselines import baselines

    chosen = recipes.load(recipe, settings)
    with progress_bar("reading") as progress:
        task = progress.add_task("")
        found = baselines(
            chosen, root=root, report=lambda done, total: progress.update(task, completed=done, total=total)
        )
    if as_json:
        print_json(found)
        return
    say(f"{chosen.data.name} {chosen.data.test}")
    for kind, figures in found.items():
        shown = (
            f"{name}{better(name)} {value:.3f}" for name, value in figures.items() if isinstance(value, float)
        )
        tell(f"{kind.replace('_', ' '):12} {'  '.join(shown)}")
