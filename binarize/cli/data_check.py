"""`binarize data check`: read all of a data set, and say what it holds and what is wrong with it."""

from __future__ import annotations

import warnings as python_warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from binarize.cli.data_classes import refuse
from binarize.cli.examples import examples
from binarize.cli.output import console, counted, print_json, progress_bar, say, tell
from binarize.errors import (
    BinarizeError,
    BinarizeWarning,
    ConfigError,
    DataError,
    near_paths,
    unknown_name,
    warn,
)

if TYPE_CHECKING:
    from binarize.data.check import SplitCheck
    from binarize.recipes import TrainingRecipe

_SIZES = 5  # sizes of images in the table, and sizes that the network is tried with
_IMAGES = ("images", "image", "imgs", "img", "rgb", "leftImg8bit", "JPEGImages")
_MASKS = ("masks", "mask", "labels", "label", "annotations", "annot", "gtFine", "SegmentationClass")
_DEPTHS = ("depth", "depths")


@click.command(
    epilog=examples("""
        # the data of a recipe
        binarize data check camvid/convnext_atto-bidense --data CamVid
        # a folder of images and masks or depth
        binarize data check photos
    """)
)
@click.argument("recipe_or_data")
@click.option("--data", "root", type=click.Path(path_type=Path), help="Folder of the data set.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Another value in the recipe.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def check(recipe_or_data: str, root: Path | None, settings: tuple[str, ...], as_json: bool) -> None:
    """Read all images and truths, and report what is wrong.

    RECIPE_OR_DATA is a recipe, a data set (`binarize data list`) or a folder with images and masks or depth.
    Prints the sizes, the share of each class, or the range of depths and how many pixels have one; for
    classification the images of each class.

    Warns of absent classes, doubtful units of depth, masks of 0 and 255, images without a truth, hidden
    files, images that two splits share, and a crop larger than all images. For a recipe, its network is tried
    with one image of each size.

    The exit status is 0, also with warnings, and 2 if a file or the network cannot be used.
    """
    from binarize.cli.data_classes import check_classes
    from binarize.data import catalog
    from binarize.data.check import between_splits
    from binarize.data.padding import padded
    from binarize.training.build import dataset

    recipe, splits, has_network = _chosen(recipe_or_data, settings)
    if catalog.info(recipe.data.name).task == "classification":
        train = recipe.data.train if has_network else None
        images: Any = {s: dataset(recipe, s, root=root, training=s == train) for s in splits}
        check_classes(recipe.data.name, images, as_json=as_json)
        return
    parts, faults, warnings = _splits(recipe, splits, root, augmented=has_network)
    _read(parts)
    for part in parts.values():
        wrong, doubtful = part.findings()
        faults += [*part.faults, *wrong]
        warnings += doubtful
    warnings += between_splits(parts, recipe.data.train)
    if has_network and (train := parts.get(recipe.data.train)) is not None:
        small = padded(train.data, train.where, recipe.data.augmentation.model_dump())
        warnings += [small.message] if small is not None else []
    if has_network and parts and not faults:
        more, other = _tried(recipe, parts)
        faults += more
        warnings += other
    faults, warnings = (list(dict.fromkeys(texts)) for texts in (faults, warnings))
    facts = {split: part.facts() for split, part in parts.items()}
    if as_json:
        name = recipe.data.name
        print_json({"data": name, "splits": facts, "warnings": warnings, "errors": faults})
    else:
        _print(facts)
        for text in warnings:
            warn(text)
    refuse(faults)
    if not as_json:
        say("all can be read, and every truth fits its image")


def _chosen(name: str, settings: tuple[str, ...]) -> tuple[TrainingRecipe, list[str], bool]:
    """The recipe, or one made up around data; its splits; and whether it names a network."""
    from binarize import data, recipes
    from binarize.data import catalog
    from binarize.recipes.library import recipes_of

    if name in data.names() and not Path(name).is_file():
        recipe = _around({"name": name}, settings)
        return recipe, list(catalog.info(name).splits) or _named(recipe), False
    if Path(name).is_dir() and not recipes_of(name):
        recipe = _around(_folder(Path(name)), settings)
        return recipe, _named(recipe), False
    known = [*recipes.names(), *data.names()]
    plain = not Path(name).suffix and name.removeprefix("recipes/") not in known
    if plain and not Path(name).exists() and not recipes_of(name):
        message = unknown_name("recipe, data set or folder", name, known, "binarize data list")
        raise ConfigError(f"{message}{near_paths(Path(name))}")
    recipe = recipes.load(name, settings)
    return recipe, _named(recipe), True


def _named(recipe: TrainingRecipe) -> list[str]:
    chosen = recipe.data
    return list(dict.fromkeys(s for s in (chosen.train, chosen.val, chosen.test) if s is not None))


def _around(values: Mapping[str, Any], settings: tuple[str, ...]) -> TrainingRecipe:
    from binarize import recipes

    whole = {
        "data": {"augmentation": {"size": [32, 32]}, **values},
        "network": {"encoder": "none"},
        "training": {"epochs": 1, "batch": 1, "lr": 1.0},
    }
    return recipes.validate(recipes.apply_settings(whole, settings), str(values["name"]))


def _folder(path: Path) -> dict[str, Any]:
    """Settings of a recipe's data for a folder of which nothing but its files is known.

    Raises:
        ConfigError: it is not clear which folders hold images and truths.
    """
    from binarize.data.own import look

    for base in (path, *(path / split for split in ("train", "training", "Train"))):
        images, masks, depths = (
            next((base / name for name in names if (base / name).is_dir()), None)
            for names in (_IMAGES, _MASKS, _DEPTHS)
        )
        truths = masks or depths
        if images is not None and truths is not None:
            found = look(images, truths, depth=masks is None)
            roles = found.roles
            val, test = roles.get("val"), roles.get("test")
            return {
                "name": "folder",
                "root": str(found.layout.root),
                "options": found.all_options(),
                "train": roles["train"],
                "val": val,
                "test": test or val or roles["train"],
            }
    raise ConfigError(
        f"{path}: expected a folder with {', '.join(_IMAGES[:2])}... and {', '.join(_MASKS[:2])}... or depth "
        "in it, or in its folder train. For others write a recipe: `binarize init --images DIR --masks DIR`."
    )


def _splits(
    recipe: TrainingRecipe, splits: list[str], root: Path | None, *, augmented: bool
) -> tuple[dict[str, SplitCheck], list[str], list[str]]:
    """The splits that there are; what is wrong with the others; and what was warned of."""
    from binarize.data.check import SplitCheck
    from binarize.training.build import dataset

    parts, faults = {}, []
    train = recipe.data.train
    with python_warnings.catch_warnings(record=True) as heard:
        python_warnings.simplefilter("always", BinarizeWarning)
        for split in splits:
            try:
                part: Any = dataset(recipe, split, root=root, training=augmented and split == train)
            except DataError as error:
                faults.append(str(error))
                continue
            where = f"{recipe.data.name} {split}"
            parts[split] = SplitCheck(name=split, data=part, where=where, trained=split == train)
    return parts, faults, [str(w.message) for w in heard if issubclass(w.category, BinarizeWarning)]


def _read(parts: Mapping[str, SplitCheck]) -> None:
    with progress_bar("{task.description}", counts=True, transient=False) as progress:
        for split, part in parts.items():
            for index in progress.track(range(len(part.data)), description=split):
                part.add(index)


def _tried(recipe: TrainingRecipe, parts: Mapping[str, SplitCheck]) -> tuple[list[str], list[str]]:
    """What is wrong with the network, by one forward pass for each size that it will see; and warnings."""
    from binarize.training.build import network
    from binarize.training.sizes import check_size

    first = next(iter(parts.values())).data.truth
    chosen = recipe.network.output
    with python_warnings.catch_warnings(record=True) as heard:
        python_warnings.simplefilter("always", BinarizeWarning)
        try:
            net = network(recipe.model_copy(update={"method": None}), first, weights=False)
            size = recipe.data.augmentation.size
            check_size(net, first, size, "data.augmentation.size", chosen, trained=True)
            for part in parts.values():
                if part.trained:
                    continue
                for (height, width), _ in part.shown.most_common(_SIZES):
                    where = f"images of {part.name} (see data.evaluation)"
                    check_size(net, part.data.truth, (height, width), where, chosen)
        except BinarizeError as error:
            return [str(error)], []
    return [], [str(w.message) for w in heard if issubclass(w.category, BinarizeWarning)]


def _print(facts: Mapping[str, dict[str, Any]]) -> None:
    for split, found in facts.items():
        sizes = list(found["sizes"].items())
        shown = ", ".join(f"{size}" if len(sizes) == 1 else f"{n} of {size}" for size, n in sizes[:_SIZES])
        more = f" and {len(sizes) - _SIZES} other sizes" if len(sizes) > _SIZES else ""
        tell(
            f"{split}: {counted(found['images'], 'image')}"
            + (f", {shown}{more} (height x width)" * bool(sizes))
        )
    _print_classes(facts)
    for split, found in facts.items():
        if depth := found.get("depth"):
            text = f"{depth['least']:.3g} to {depth['largest']:.3g} m, median {depth['median']:.3g} m"
            tell(f"{split}: depth {text}; {100 * found['valid']:.3g} % of the pixels count")


def _print_classes(facts: Mapping[str, dict[str, Any]]) -> None:
    """The share of each class in the pixels that count, one column for each split."""
    from rich.table import Table

    counted_in = {split: found["classes"] for split, found in facts.items() if "classes" in found}
    if not counted_in:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("class", overflow="fold")
    for split in counted_in:
        table.add_column(split, justify="right")
    for name in next(iter(counted_in.values())):
        table.add_row(name, *(_share(shares[name]) for shares in counted_in.values()))
    ignored = [_share(facts[split].get("ignored", 0.0)) for split in counted_in]
    table.add_row("(ignored)", *ignored, style="dim")
    console().print(table)


def _share(share: float) -> str:
    """Per cent, or a dash for none."""
    return "-" if share == 0 else f"{100 * share:.2g} %" if share < 0.01 else f"{100 * share:.1f} %"
