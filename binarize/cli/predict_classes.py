"""`binarize predict` for classification: the likeliest classes of each image, as a table and as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binarize.cli.output import console, counted, print_json, say, shows_progress
from binarize.cli.targets import refuse_existing
from binarize.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from binarize.data.classes import Classes
    from binarize.recipes import TrainingRecipe

FILE = "classes.json"
"""What is written into the folder of predictions."""

_COLUMNS = 3  # classes of an image in the table


def predict_classes(
    network: tuple[TrainingRecipe, nn.Module, Classes],
    images: Sequence[Path],
    out: Path,
    *,
    force: bool,
    top: int,
    as_json: bool,
) -> None:
    """Print the likeliest classes of images, and write them into a file.

    Args:
        network: recipe, network and truth of a run.
        images: files.
        out: folder for `classes.json`.
        force: replace that file.
        top: classes of each image.
        as_json: print JSON in place of the table.

    Raises:
        ConfigError: the file is there already, or an image does not fit the network.
        DataError: an image cannot be read.
    """
    from rich.progress import track

    from binarize.data.reading import read_image
    from binarize.files import write_bytes
    from binarize.training.classify import classify

    recipe, model, truth = network
    refuse_existing([out / FILE], force=force)
    found: list[dict[str, Any]] = []
    for path in track(
        images, "predicting", console=console(sys.stderr), disable=not shows_progress(), transient=True
    ):
        try:
            shares = classify(model, read_image(path), recipe.data.evaluation, recipe.network.output)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error
        values, ids = shares.sort(descending=True, stable=True)
        likeliest = zip(ids[:top].tolist(), values[:top].tolist(), strict=True)
        classes = [{"class": truth.names[i], "probability": share} for i, share in likeliest]
        found.append({"image": str(path), "classes": classes})
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {out}: {error.strerror or error}.") from error
    write_bytes(out / FILE, (json.dumps(found, indent=2) + "\n").encode())
    if as_json:
        print_json(found)
        return
    _print(found)
    say(f"{counted(len(images), 'image')}: {out / FILE}")


def _print(found: Sequence[dict[str, Any]]) -> None:
    from rich.table import Table

    from binarize.tables import Name

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("image", ratio=1)
    columns = min(_COLUMNS, max(len(row["classes"]) for row in found))
    for index in range(columns):
        table.add_column("class" if not index else f"{index + 1}.", overflow="fold")
        table.add_column("%", justify="right", no_wrap=True)
    for row in found:
        cells: list[Any] = [Name(row["image"], behind="/_")]
        for chosen in row["classes"][:columns]:
            cells += [chosen["class"], f"{100 * chosen['probability']:.1f}"]
        table.add_row(*cells)
    console().print(table)
