"""`binarize verify`: whether a packed network gives the results of the trained one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from binarize.cli.examples import examples
from binarize.cli.options import exact_scales_option
from binarize.cli.output import console, print_json, progress, say
from binarize.cli.speed import importing
from binarize.errors import ConfigError
from binarize.tables import better

if TYPE_CHECKING:
    from torch import Tensor, nn

    from binarize.data.samples import SampleDataset
    from binarize.recipes import TrainingRecipe
    from binarize.recipes.schema import Evaluation


@click.command(
    epilog=examples("""
        # a run, by the figures of its data set too
        binarize verify runs/tiny-bidense
        # a file that was not trained here, on images
        binarize verify net.safetensors photo.jpg --exact-scales
    """)
)
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1)
@click.option(
    "--packed", "packed_file", type=click.Path(path_type=Path), help="Its packed form.  [default: from FILE]"
)
@exact_scales_option
@click.option("--data", "root", type=click.Path(path_type=Path), help="Folder of the data set to measure on.")
@click.option("--split", help="Part of the data set.  [default: the recipe's test]")
@click.option(
    "--count", default=8, show_default=True, type=click.IntRange(1), help="Images to compare layer by layer."
)
@click.option(
    "--model", "custom", metavar="FILE.py:CALLABLE", help="The float model, if FILE holds a custom class."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def verify(
    file: Path,
    images: tuple[str, ...],
    packed_file: Path | None,
    exact: bool,
    root: Path | None,
    split: str | None,
    count: int,
    custom: str | None,
    as_json: bool,
) -> None:
    """Compare the network in FILE with its packed form.

    First layer by layer on the same inputs, then as a whole: on IMAGES, or on images of the data set that it
    was trained for, and by the figures on all of those. A file that `train` did not write needs IMAGES; they
    are resized to the size of its conversion. All tensors that the network returns are compared.

    Layers agree to about 1e-5. Where kernels round scales per channel, the column `allowed` says how far they
    may differ. --exact-scales compares without rounding.

    If every layer agrees and the outputs do not, inputs lie on thresholds: then the last digit of a number
    changes a sign, and the values behind it change by whole steps. Untrained networks have this, because
    their new norms put many values exactly on thresholds. Trained networks agree as a whole too.
    """
    with importing():
        from binarize.runtime.verify import verify as compare
        from binarize.training import saved
        from binarize.training.build import dataset

    recipe, model, settings = _read(file, custom)
    prepare = _preparation(file, recipe, settings)
    if recipe is None and not images:
        raise ConfigError(f"{file} was not written by `binarize train` and names no data set: give IMAGES.")
    if recipe is None and (root is not None or split is not None):
        raise ConfigError(f"{file} names no data set, so --data and --split cannot be used.")
    packed = _packed(file, model, packed_file, custom, exact)
    data, where = None, ""
    if not images and recipe is not None:
        part = split or recipe.data.test
        data, where = dataset(recipe, part, root=root), f"{recipe.data.name} {part}"
        saved.check_classes(file, data.truth)
    with progress("comparing"):
        result = compare(model, packed, _inputs(images, prepare) if data is None else _samples(data, count))
    figures: dict[str, Any] = {}
    if data is not None and recipe is not None:
        chosen = recipe.network.output
        for name, net in (("trained", model), ("packed", packed)):
            with progress(f"measuring the {name} network"):
                figures[name] = _measured(net, data, settings, chosen, where)
    if as_json:
        print_json({"file": str(file), **result.as_dict(), "figures": figures})
        return
    console().print(result)
    if figures:
        _print(figures)


def _packed(
    file: Path, model: nn.Module, packed_file: Path | None, custom: str | None, exact: bool
) -> nn.Module:
    """The packed form of the model: read from its file, or made here."""
    from binarize import runtime

    if runtime.deployed_layers(model):
        raise ConfigError(
            f"{file} is packed: its latent weights are gone; there is nothing to compare it with. Give the "
            "file that it was exported from, and this one with --packed. (The zoo keeps packed files only.)"
        )
    with progress("packing"):
        if packed_file is None:
            return runtime.deploy(model, exact_scales=exact)
        packed = _read(packed_file, custom)[1]
    return runtime.configure(packed, exact_scales=exact)


def _preparation(
    file: Path, recipe: TrainingRecipe | None, settings: Evaluation
) -> Callable[[Tensor], Tensor]:
    """From an image (3, H, W) uint8 to the network's input (1, 3, H', W')."""
    from functools import partial

    from binarize.data.classes import Classes
    from binarize.files import container
    from binarize.training import classify, pictures
    from binarize.training.folder import model_file
    from binarize.training.metadata import read_truth

    place = model_file(file)
    of_classes = recipe is not None and isinstance(read_truth(container.read_metadata(place), place), Classes)
    return partial(classify.prepared if of_classes else pictures.prepared, settings=settings)


def _inputs(images: tuple[str, ...], prepare: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
    """The images of files, folders and patterns, each (1, 3, H, W)."""
    from binarize.cli.predict import images_of
    from binarize.data.reading import read_image

    for path in images_of(images, alike=True):
        yield prepare(read_image(path))


def _samples(data: SampleDataset, count: int) -> Iterator[Tensor]:
    """`count` images, evenly spread over the data set, each (1, 3, H, W)."""
    step = max(1, len(data) // count)
    for index in range(0, len(data), step)[:count]:
        yield data[index].image[None]


def _print(figures: dict[str, Any]) -> None:
    from binarize.training.figures import figures_in

    for key in (k for k in figures_in(figures["trained"]).line if k in figures["trained"]):
        a, b = figures["trained"][key], figures["packed"][key]
        name = f"{key}{better(key)}"
        say(f"{name:18} trained {a:.5f}  packed {b:.5f}  difference {b - a:+.5f}")


def _read(file: Path, custom: str | None) -> tuple[TrainingRecipe | None, nn.Module, Evaluation]:
    """The recipe if there is one, the network, and its preprocessing of images."""
    from binarize import files
    from binarize.cli.packing import read_network
    from binarize.files import container
    from binarize.recipes.schema import Evaluation
    from binarize.training import saved
    from binarize.training.folder import model_file
    from binarize.training.metadata import has_recipe

    place = model_file(file)
    metadata = container.read_metadata(place)
    if has_recipe(metadata):
        recipe, model = saved.load(file)
        return recipe, model, recipe.data.evaluation
    header = files.read_header(place)
    custom_class = header.source["source"] == "custom"
    model = read_network(place, custom, custom_class=custom_class, metadata=metadata)
    plan = getattr(model, "binarize_plan", None)
    shape = plan.inputs[0] if plan is not None and plan.inputs else ()
    if len(shape) != 4 or shape[1] != 3:
        raise ConfigError(
            f"{file} was not converted on images of three channels"
            f"{f' but on {tuple(shape)}' if shape else ''}: only those can be compared here."
        )
    return None, model, Evaluation(resize=(shape[2], shape[3]))


def _measured(
    net: nn.Module, data: SampleDataset, settings: Evaluation, chosen: str | int | None, where: str
) -> dict[str, Any]:
    from binarize.training.evaluation import evaluate

    how: dict[str, Any] = {"batch": settings.batch, "flip": settings.flip, "scales": settings.scales}
    found = evaluate(net, data, output=chosen, **how, where=where)
    return {k: v for k, v in found.items() if isinstance(v, float)}
