"""`binarize data`: list data sets, and check one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from binarize.cli.output import console, counted, print_json, progress_bar, say, tell
from binarize.errors import ConfigError, DataError, warn
from binarize.tables import Name, better

_SHOWN = 10


@click.group()
def data() -> None:
    """Look at data sets."""


@data.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def list_(as_json: bool) -> None:
    """List the data sets that recipes can name, and the layouts they come in."""
    from rich.table import Table

    from binarize.data import catalog

    infos = [catalog.info(name) for name in catalog.names()]
    if as_json:
        print_json([{"name": i.name, "task": i.task, "splits": i.splits, "layout": i.layout} for i in infos])
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("data set", "task", "splits"):
        table.add_column(column, no_wrap=True)
    table.add_column("in its folder")
    for i in infos:
        layout = i.layout or "drawn, no files"
        splits = " ".join(i.splits) or "any"
        table.add_row(i.name, i.task or "segmentation or depth", splits, Name(layout, behind="/_,"))
    console().print(table)


@data.command()
@click.argument("recipe")
@click.option("--data", "root", type=click.Path(path_type=Path), help="Folder of the data set.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Another value in the recipe.")
def check(recipe: str, root: Path | None, settings: tuple[str, ...]) -> None:
    """Read every image and truth that RECIPE uses; exit status 2 if one is wrong.

    It also checks what the truths hold: whether any pixel counts, units of depth, values of masks, classes
    that never occur, pictures that are rotated. Of classification it counts the images of each class.
    """
    from binarize import recipes
    from binarize.cli.data_classes import check_classes
    from binarize.data.classes import ClassDataset
    from binarize.data.findings import Finding
    from binarize.data.survey import Survey, has_files
    from binarize.training.build import dataset

    chosen = recipes.load(recipe, settings)
    splits = dict.fromkeys(s for s in (chosen.data.train, chosen.data.val, chosen.data.test) if s is not None)
    parts: dict[str, Any] = {
        split: dataset(chosen, split, root=root, training=split == chosen.data.train) for split in splits
    }
    if all(isinstance(part, ClassDataset) for part in parts.values()):
        check_classes(chosen.data.name, parts)
        return
    faults: list[str] = []
    found: list[Finding] = []
    with progress_bar("{task.description}", counts=True, transient=False) as progress:
        for split, part in parts.items():
            survey, files = Survey(part), has_files(part)
            for index in progress.track(range(len(part)), description=split):
                try:
                    _ = part[index]
                    if files:
                        survey.add(index)
                except DataError as error:
                    faults.append(str(error))
                except ConfigError as error:  # the error of a transform does not name the file
                    faults.append(f"{part.pairs[index].image}: {error}")
            trained = split == chosen.data.train
            found += survey.findings(f"{chosen.data.name} {split}", complete=True, trained=trained)
    for split, part in parts.items():
        say(f"{split}: {counted(len(part), 'image')}")
    for finding in found:
        if not finding.error:
            warn(finding.message)
    faults += [finding.message for finding in found if finding.error]
    if faults:
        more = f"\n... and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise DataError(f"{len(faults)} are wrong:\n" + "\n".join(faults[:_SHOWN]) + more)
    say("all can be read, and every truth fits its image")


@data.command()
@click.argument("recipe")
@click.option("--data", "root", type=click.Path(path_type=Path), help="Folder of the data set.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Another value in the recipe.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def floor(recipe: str, root: Path | None, settings: tuple[str, ...], as_json: bool) -> None:
    """Measure predictions that ignore the image, on the test split of RECIPE's data.

    One value for all pixels, and one for each place in the picture, both from the truths of the training
    split; of classification the most frequent class: a network should be better than these.
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
