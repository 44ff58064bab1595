"""`binarize predict`: pictures in, masks or depth maps out."""

from __future__ import annotations

import glob
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from binarize.cli.examples import examples
from binarize.cli.options import (
    best_option,
    chosen_file,
    device_option,
    float_model,
    model_option,
    out_option,
)
from binarize.cli.output import console, counted, say, shows_progress
from binarize.cli.speed import importing
from binarize.cli.targets import refuse_existing
from binarize.errors import ConfigError, DataError, near_paths

if TYPE_CHECKING:
    from torch import Tensor, nn

    from binarize.data.dataset import Depth, Labels
    from binarize.recipes import TrainingRecipe

    Network = tuple[TrainingRecipe, nn.Module, Labels | Depth]


_TOP = 5


@click.command(
    epilog=examples(r"""
        # one image, with the labels drawn over it
        binarize predict runs/tiny-bidense photo.jpg --overlay
        # all images of a folder, beside the truth and another network
        binarize predict zoo:nyuv2-397-bidense 'photos/*.jpg' --out depth \
            --panel --truth depths --with zoo:nyuv2-397-float
    """)
)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True)
@out_option("Folder.", file_okay=False, default=Path("predictions"), show_default=True)
@best_option
@model_option
@click.option("--overlay", is_flag=True, help="Also write the prediction's colours over the image.")
@click.option(
    "--panel",
    is_flag=True,
    help="Also write image, truth and predictions side by side, depth on one colour scale.",
)
@click.option(
    "--with", "others", multiple=True, type=click.Path(path_type=Path), help="One more network for the panel."
)
@click.option(
    "--truth",
    "truths",
    type=click.Path(path_type=Path),
    help="For the panel: a file, or a folder with files of the images' names (sync_depth_N for rgb_N too).",
)
@device_option
@click.option("--force", is_flag=True, help="Replace files that exist.")
@click.option("--top", type=click.IntRange(1), help="Of classification: classes of each image.  [default: 5]")
@click.option("--json", "as_json", is_flag=True, help="Of classification: print one JSON document.")
def predict(
    checkpoint: Path,
    images: tuple[str, ...],
    out: Path,
    best: bool,
    custom: str | None,
    overlay: bool,
    panel: bool,
    others: tuple[Path, ...],
    truths: Path | None,
    device: str | None,
    force: bool,
    top: int | None,
    as_json: bool,
) -> None:
    """Predict labels, depth or classes for images.

    IMAGES are files, folders or patterns. For cat.jpg the command writes cat.png, a mask of the data's
    values or colours, or depth in millimetres (16 bits) and cat-colour.png; with --overlay cat-overlay.png,
    with --panel cat-panel.png, all of the image's size. Near depths are bright, unknown truth is grey.

    For a network that classifies whole images: a table of the likeliest classes and their probabilities, and
    classes.json in the folder.
    """
    if (others or truths) and not panel:
        raise ConfigError("predict: --with and --truth add to a panel; add --panel.")
    with importing():
        from binarize.cli.predict_classes import predict_classes
        from binarize.data.classes import Classes
        from binarize.data.reading import read_image
        from binarize.files import write_bytes
        from binarize.runtime import keep_memory
        from binarize.training import pictures

    images_of(images, alike=True)  # a wrong name is an error before a network is read
    keep_memory()
    paths = (chosen_file(checkpoint, best), *others)
    networks = _networks(paths, custom, device)
    truth = networks[0][2]
    if isinstance(truth, Classes):
        if overlay or panel:
            raise ConfigError(
                f"predict: {checkpoint} classifies whole images: --overlay and --panel are not for it."
            )
        many = images_of(images, alike=True)
        predict_classes(networks[0], many, out, force=force, top=top or _TOP, as_json=as_json)
        return
    if top or as_json:
        raise ConfigError(
            f"predict: --top and --json are for classification; {checkpoint} is for {truth.task}."
        )
    files = images_of(images)
    known = _truths_of(files, truths) if truths is not None else {}
    _check_truths(paths, [other for _, _, other in networks])
    names = _names([recipe for recipe, _, _ in networks], paths)
    endings = [""] + ["-colour"] * (truth.task == "depth") + ["-overlay"] * overlay + ["-panel"] * panel
    written = [out / f"{file.stem}{ending}.png" for file in files for ending in endings]
    _check_targets(written, [*files, *known.values()], force)
    for file in files:  # all of them before the first file is written; decoding is fast beside predicting
        image = read_image(file)
        if file in known:
            _true(known[file], truth, image, file)
    from rich.progress import track

    _make_folder(out)
    for file in track(
        files, "predicting", console=console(sys.stderr), disable=not shows_progress(), transient=True
    ):
        image = read_image(file)
        maps = _maps(networks if panel else networks[:1], image, file)
        colours = pictures.coloured(maps[0], truth)
        made = {"": pictures.as_png(maps[0], truth), "-colour": pictures.picture(colours)}
        if overlay:
            made["-overlay"] = pictures.picture(pictures.overlay(image, colours))
        if panel:
            true = _true(known[file], truth, image, file) if file in known else None
            made["-panel"] = _panel(image, list(zip(names, maps, strict=True)), true, truth)
        for ending in endings:
            write_bytes(out / f"{file.stem}{ending}.png", made[ending])
    say(f"{counted(len(files), 'image')}: {out}")


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {out}: {error.strerror or error}.") from error


def _networks(paths: Sequence[Path], custom: str | None, device: str | None) -> Any:
    """Recipe, network and truth of each file, on the device; `custom` builds the first one, if given."""
    from binarize.preprocessing import preprocessing_of
    from binarize.training import environment, saved
    from binarize.training.build import FROM_PYTHON

    networks = [saved.load_with_truth(paths[0], float_model(custom))]
    networks += [saved.load_with_truth(path) for path in paths[1:]]
    for path, (recipe, network, _) in zip(paths, networks, strict=True):
        if recipe.data.name == FROM_PYTHON and preprocessing_of(network) is None:
            raise ConfigError(
                f"{path} was trained in Python on tensors of floats, and does not say how they were made of "
                "images: binarize.predict takes such a tensor."
            )
    with environment.on_device(device):
        place = environment.device()
    return [(recipe, model.to(place), truth) for recipe, model, truth in networks]


def _check_truths(paths: Sequence[Path], truths: Sequence[Labels | Depth]) -> None:
    """Refuse a network for another task, or for other classes, than those of the first one."""
    first = truths[0]
    for path, other in zip(paths[1:], truths[1:], strict=True):
        if type(other) is not type(first) or getattr(other, "names", ()) != getattr(first, "names", ()):
            raise ConfigError(f"{path}: was trained for another task or other classes than {paths[0]}.")


def _check_targets(written: Sequence[Path], read: Sequence[Path], force: bool) -> None:
    """Refuse to write one file twice, to replace an image or truth, and, without `force`, any file."""
    own = {path.resolve() for path in read}
    if taken := next((path for path in written if path.resolve() in own), None):
        raise ConfigError(
            f"{taken} is one of the images or truths, which are never replaced: choose another --out."
        )
    if len(set(written)) < len(written):
        twice = next(p for p in written if written.count(p) > 1)
        raise ConfigError(
            f"{twice} would be written for two of the images; predict them one after the other."
        )
    refuse_existing(written, force=force)


def _maps(networks: Sequence[Network], image: Tensor, file: Path) -> list[Tensor]:
    """Each network's prediction (H, W) for an image (3, H, W) uint8."""
    from binarize.training import pictures

    try:
        return [
            pictures.predict_image(
                model, image, recipe.data.evaluation, networks[0][2], recipe.network.output
            )
            for recipe, model, _ in networks
        ]
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def _true(path: Path, truth: Labels | Depth, image: Tensor, file: Path) -> Tensor:
    """The truth (H, W) in the file `path`, of the size of the image."""
    true = truth.read(path)
    if true.shape != image.shape[1:]:
        raise DataError(
            f"{path}: {true.shape[1]}x{true.shape[0]} (width x height), but {file} is "
            f"{image.shape[2]}x{image.shape[1]}."
        )
    return true


def _panel(
    image: Tensor, named: list[tuple[str, Tensor]], true: Tensor | None, truth: Labels | Depth
) -> bytes:
    """Image, truth and named predictions side by side, as a PNG; depth in the colours of the truth's span."""
    from binarize.data.dataset import Labels
    from binarize.training import pictures

    spread = [prediction for _, prediction in named]
    if true is not None:
        named = [("truth", true), *named]
        spread = [true] if bool((true > 0).any()) else spread
    span = pictures.depth_span(*spread) if truth.task == "depth" else None
    parts = [("image", image), *((name, pictures.coloured(m, truth, span)) for name, m in named)]
    key = pictures.classes_in([m for _, m in named], truth) if isinstance(truth, Labels) else ()
    return pictures.picture(pictures.panel(parts, span, key))


def _names(recipes: Sequence[TrainingRecipe], paths: Sequence[Path]) -> list[str]:
    from binarize.comparison import labels

    return labels(recipes, paths)


def _truths_of(images: Sequence[Path], truths: Path) -> dict[Path, Path]:
    """The files of the images' truths."""
    if truths.is_file() and len(images) == 1:
        return {images[0]: truths}
    if not truths.is_dir():
        raise ConfigError(f"--truth {truths}: expected a folder, or for one image a file.")
    own = {image.resolve() for image in images}  # images and truths may lie in one folder
    there: dict[str, Path] = {}
    for path in sorted(truths.iterdir(), reverse=True):
        hidden = path.name.startswith(".")  # `._x.png` of macOS is not a picture
        if path.is_file() and not hidden and path.resolve() not in own:
            there[path.stem] = path
    found = {}
    for image in images:
        names = [image.stem]
        if image.stem.startswith("rgb_"):
            names.append(f"sync_depth_{image.stem.removeprefix('rgb_')}")
        path = next((there[name] for name in names if name in there), None)
        if path is None:
            expected = " or ".join(f"{name}.*" for name in names)
            raise ConfigError(f"--truth {truths}: there is no file named {expected} for {image}.")
        found[image] = path
    return found


def images_of(given: Sequence[str], *, alike: bool = False) -> list[Path]:
    """The files that files, folders and patterns name, each once; two of one stem only if `alike`."""
    from binarize.data.files import images

    found: dict[Path, None] = {}
    for text in given:
        path = Path(text)
        if path.is_dir():
            found |= dict.fromkeys(images(path))
        elif path.is_file():
            found[path] = None
        else:
            matching = sorted(Path(p) for p in glob.glob(text, recursive=True) if Path(p).is_file())  # noqa: PTH207 - patterns may be absolute
            if not matching:
                missing = f"{text}: no such file or folder, and no file matches it as a pattern."
                raise ConfigError(f"{missing}{near_paths(path)}")
            found |= dict.fromkeys(matching)
    stems: dict[str, Path] = {}
    for path in () if alike else found:
        if (other := stems.setdefault(path.stem, path)) != path:
            raise ConfigError(
                f"{other} and {path} would be written to the same files; predict them one after the other, "
                "with another --out."
            )
    return list(found)
