"""`binarize predict`: pictures in, masks or depth maps out."""

from __future__ import annotations

import glob
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from binarize.cli.output import console, say
from binarize.cli.speed import importing
from binarize.errors import ConfigError


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("predictions"),
    show_default=True,
    help="Folder.",
)
@click.option("--overlay", is_flag=True, help="Also the prediction's colours over the image.")
@click.option("--panel", is_flag=True, help="Also image and prediction side by side.")
@click.option("--force", is_flag=True, help="Replace files that exist.")
def predict(
    checkpoint: Path, images: tuple[str, ...], out: Path, overlay: bool, panel: bool, force: bool
) -> None:
    """Predict labels or depth for IMAGES: files, folders or patterns.

    For cat.jpg: cat.png, class ids with a palette, or depth in millimetres (16 bits) and cat-colour.png; with
    --overlay cat-overlay.png, with --panel cat-panel.png. Of the size of the image, whatever it is.
    """
    files = _images(images)
    with importing():
        from binarize.data.reading import read_image
        from binarize.files import write_bytes
        from binarize.training import pictures, saved

    recipe, model, truth = saved.load_with_truth(checkpoint)
    endings = ["", *(["-colour"] if truth.task == "depth" else [])]
    endings += ["-overlay"] * overlay + ["-panel"] * panel
    taken = [p for file in files for e in endings if (p := out / f"{file.stem}{e}.png").exists()]
    if taken and not force:
        raise ConfigError(f"{taken[0]} exists; replace it with --force, or name another folder with --out.")
    from rich.progress import track

    out.mkdir(parents=True, exist_ok=True)
    for file in track(
        files, "predicting", console=console(sys.stderr), disable=not sys.stderr.isatty(), transient=True
    ):
        image = read_image(file)
        prediction = pictures.predict_image(model, image, recipe.data.evaluation, truth)
        colours = pictures.coloured(prediction, truth)
        made = {
            "": lambda p=prediction: pictures.as_png(p, truth),
            "-colour": lambda c=colours: pictures.picture(c),
            "-overlay": lambda i=image, c=colours: pictures.picture(pictures.overlay(i, c)),
            "-panel": lambda i=image, c=colours: pictures.picture(pictures.panel([i, c])),
        }
        for ending in endings:
            write_bytes(out / f"{file.stem}{ending}.png", made[ending]())
    say(f"{len(files)} images: {out}")


def _images(given: Sequence[str]) -> list[Path]:
    """The files that files, folders and patterns name, once each."""
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
                raise ConfigError(f"{text}: no such file or folder, and no file matches it as a pattern.")
            found |= dict.fromkeys(matching)
    stems: dict[str, Path] = {}
    for path in found:
        if (other := stems.setdefault(path.stem, path)) != path:
            raise ConfigError(
                f"{other} and {path} would be written to the same files; predict them one after the other, "
                "with another --out."
            )
    return list(found)
