"""`binarize init`: a recipe for data of the user's own."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from binarize.cli.examples import examples
from binarize.cli.options import DEFAULT_METHOD, out_option
from binarize.cli.output import counted, say, tell
from binarize.cli.speed import importing
from binarize.cli.targets import check_output
from binarize.errors import ConfigError, listed

if TYPE_CHECKING:
    from binarize.data.own import Found
    from binarize.data.own.class_names import NamedClasses

_FLOAT = ("none", "float", "null")


@click.command(
    epilog=examples(r"""
        # segmentation: images and masks of the same names
        binarize init --images photos/images --masks photos/masks --out mine.yaml
        # depth in millimetres, for a network of your own
        binarize init --images rooms/images --depth rooms/depth --scale 1000 \
            --network nets.py:unet
    """)
)
@click.option("--images", type=click.Path(path_type=Path), help="Folder of the images.")
@click.option("--masks", type=click.Path(path_type=Path), help="Folder of the label masks.")
@click.option("--depth", type=click.Path(path_type=Path), help="Folder of depth maps, instead of masks.")
@click.option(
    "--list",
    "lists",
    type=click.Path(path_type=Path),
    help="Text file of a split, or folder of such lists: lines `image truth`, or names of images.",
)
@click.option(
    "--network", metavar="SPEC", help="nets.py:unet, upernet:resnet18...  [default: a small UPerNet]"
)
@click.option("--method", "-m", default=DEFAULT_METHOD, show_default=True, help="none for a float network.")
@click.option(
    "--labels",
    metavar="NAMES",
    help="Names of the classes, sky,road,car; with values 0=no,255=crack; or a file.  [default: found]",
)
@click.option("--scale", type=float, help="Units of depth files per metre.  [default: guessed]")
@click.option("--max-depth", type=float, help="Largest depth that counts, m.  [default: the largest found]")
@out_option("The recipe.", default=Path("recipe.yaml"), show_default=True)
@click.option("--force", is_flag=True, help="Replace a file that exists.")
def init(
    images: Path | None,
    masks: Path | None,
    depth: Path | None,
    lists: Path | None,
    network: str | None,
    method: str,
    labels: str | None,
    scale: float | None,
    max_depth: float | None,
    out: Path,
    force: bool,
) -> None:
    """Write a recipe for images and truths of your own.

    The folders are those of all splits, or of one (its siblings train, val, test are found). Files of images
    and masks have the same names, or differ by a beginning or an end (a.jpg, a_mask.png). Names of classes
    are taken from classes.txt, codes.txt or labels.txt beside the data. Lists (train.txt, val.txt beside the
    data, or --list) say which images are for which split. Only OUT is written.
    """
    truths, is_depth = _one_kind(images, masks, depth, lists)
    _check_options(depth=is_depth, labels=labels, scale=scale, max_depth=max_depth)
    check_output(out, force=force, ending=".yaml")
    with importing():
        from binarize.data.own import look
        from binarize.data.own.class_names import given_names
        from binarize.files import write_bytes
        from binarize.training.starter import Choice, recipe_text

    named = given_names(labels) if labels is not None else None
    found = look(images, truths, depth=is_depth, lists=lists, named=named, scale=scale, max_depth=max_depth)
    if named is not None:
        _check_names(named, found)
    choice = Choice(
        network=_seen_from(out, network),
        method=None if method in _FLOAT else method,
        root=_relative(found.layout.root, out),
        command=_command(images=images, masks=masks, depth=depth, list=lists),
    )
    text = recipe_text(found, choice)
    _try(text, out)
    for name, line in _rows(found, choice.method, network):
        tell(f"{name:9}{line}")
    write_bytes(out, text.encode())
    say(f"written  {out}")
    say(f"Next: {shlex.join(['binarize', 'data', 'check', str(out)])}")
    say(f"      {shlex.join(['binarize', 'train', str(out)])}")


def _one_kind(
    images: Path | None, masks: Path | None, depth: Path | None, lists: Path | None
) -> tuple[Path | None, bool | None]:
    """The folder of the truths, and whether they are depths; None for what a list has to say."""
    if masks is not None and depth is not None:
        raise ConfigError(
            "init: --masks and --depth: a recipe trains one task, from one kind of truth; give one of them."
        )
    truths = masks if masks is not None else depth
    if lists is None and images is None:
        raise ConfigError(
            "init: where is the data? Give --images DIR with --masks DIR or --depth DIR, or --list FILE."
        )
    if truths is None and (lists is None or images is not None):
        raise ConfigError(
            "init: give --masks DIR or --depth DIR: a recipe trains one task, from one kind of truth."
        )
    return truths, None if truths is None else depth is not None


def _check_options(
    *, depth: bool | None, labels: str | None, scale: float | None, max_depth: float | None
) -> None:
    if depth and labels is not None:
        raise ConfigError("init: --labels names classes, depth has none.")
    for option, value in (("--scale", scale), ("--max-depth", max_depth)):
        if value is not None and depth is False:
            raise ConfigError(f"init: {option} is for --depth.")
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(f"init: {option} {value:g}: expected a number above 0.")


def _check_names(named: NamedClasses, found: Found) -> None:
    """Refuse names of --labels of which it is not known whose they are; a file beside the data may be old.

    Raises:
        ConfigError: the masks hold other values, or colours.
    """
    from binarize.data.own.classes import Classes

    truth = found.truth
    if not isinstance(truth, Classes) or truth.named:
        return
    if truth.coloured:
        raise ConfigError(
            f"init: --labels: the masks hold {len(truth.names)} colours, and no name has one. Give a file "
            "with lines `name R G B`, or leave --labels out and name them in the recipe."
        )
    values = truth.values or range(len(truth.names))
    own = f" of the values {listed(map(str, named.names), 12)}" if named.numbered else ""
    raise ConfigError(
        f"init: --labels names {len(named.names)} classes{own}, but the masks hold {len(values)} values: "
        f"{listed(map(str, values), 12)}. Name one class for each, or write VALUE=NAME for each."
    )


def _relative(path: Path, out: Path) -> str:
    """A path for the recipe: relative to the recipe's folder, unless that leads through the root."""
    base = out.resolve().parent
    try:
        text = Path(os.path.relpath(path, base)).as_posix()
    except ValueError:  # another drive
        return str(path)
    ups = text.split("/").count("..")
    return text if ups < min(4, max(1, len(base.parts) - 1)) else str(path)


def _seen_from(out: Path, network: str | None) -> str | None:
    """The network's name, with the path of its file relative to the recipe."""
    from binarize.user_code import is_file, parts

    if network is None or not is_file(network):
        return network
    place = parts(network)[0]
    if Path(place).is_absolute() or not Path(place).is_file():
        return network
    return f"{_relative(Path(place).resolve(), out)}{network[len(place) :]}"


def _command(**given: Path | None) -> str:
    options = ((f"--{name}", str(path)) for name, path in given.items() if path is not None)
    return shlex.join(["binarize", "init", *(word for option in options for word in option)])


def _try(text: str, out: Path) -> None:
    """See that the recipe reads its data, and that its network takes it, before it is written.

    Raises:
        BinarizeError: what `train` would say.
    """
    import warnings

    from binarize.errors import BinarizeWarning
    from binarize.recipes.read import from_text
    from binarize.training import build
    from binarize.training.sizes import check_size

    recipe = from_text(text, out, build.faults)
    with warnings.catch_warnings():  # of pairs: the table says it
        warnings.simplefilter("ignore", BinarizeWarning)
        truth = build.dataset(recipe, recipe.data.train).truth
    bare = recipe.model_copy(update={"method": None})
    net = build.network(bare, truth, weights=False)
    size = recipe.data.augmentation.size
    check_size(net, truth, size, "data.augmentation.size", recipe.network.output, trained=True)


def _rows(found: Found, method: str | None, network: str | None) -> Iterator[tuple[str, str]]:
    """What was found and chosen, by name."""
    from binarize.data.own.classes import Classes
    from binarize.training.starter import epochs, training_size, usual_size

    layout, naming, truth = found.layout, found.naming, found.truth
    total = sum(found.images.values())
    usual = usual_size(found.sizes)
    others = f", and {len(found.sizes) - 1} other sizes" if len(found.sizes) > 1 else ""
    place = layout.root / (layout.images or layout.lists)
    yield "images", f"{place}: {total}, {usual[0]}x{usual[1]}{others} (height x width)"
    named = "the same names" if naming.image == naming.truth else f"{naming.truth} for {naming.image}"
    if layout.truths:
        yield "truths", f"{layout.root / layout.truths}: {named}"
    for what, alone in (("images without a truth", found.without_truth),
                        ("truths without an image", found.without_image)):  # fmt: skip
        if alone:
            yield "", f"{len(alone)} {what}, left out: {listed((p.name for p in alone), 3)}"
    if isinstance(truth, Classes):
        yield "classes", f"{len(truth.names)}: {listed(truth.names, 12)}"
        for text in truth.why:
            yield "", text
    else:
        yield "depth", f"{truth.low:.3g} to {truth.high:.3g} m in {truth.unit} (scale {truth.scale:g})"
        yield "", f"{100 * truth.known:.0f} % of the pixels known; depths to {truth.most:g} m count"
    how = layout.lists or "folders" if layout.splits else "by shares of the files"
    yield "splits", f"{', '.join(f'{name} {number}' for name, number in found.images.items())} ({how})"
    height, width = training_size(found.sizes)
    number, batch = epochs(found)
    net = f"{network or 'upernet:convnext_atto'}, {method or 'float'}"
    yield "network", f"{net}, images of {height}x{width}"
    yield "steps", f"{counted(number, 'epoch')}, {batch} images a step"
