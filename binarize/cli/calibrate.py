"""`binarize calibrate`: the statistics of a network, measured again over some images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from binarize.cli.examples import examples
from binarize.cli.options import model_option, out_option, size_option
from binarize.cli.output import counted, print_json, progress, say, tell
from binarize.cli.packing import read_network
from binarize.cli.speed import importing
from binarize.cli.targets import check_output
from binarize.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from binarize.calibration import Calibration
    from binarize.preprocessing import Preprocessing

_SHOWN = 5


@click.command(
    epilog=examples("""
        # by training images of the run's own data
        binarize calibrate runs/tiny-bidense
        # a fresh conversion, by images of a folder
        binarize calibrate resnet18-bidense.safetensors --images photos --batches 8
    """)
)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--data",
    "data",
    metavar="RECIPE|DIR",
    help="A recipe whose training images to take, or a folder for the data set of CHECKPOINT's own recipe.",
)
@click.option("--images", type=click.Path(path_type=Path), help="A folder of images.")
@click.option("--batches", default=16, show_default=True, type=click.IntRange(1), help="How many.")
@click.option(
    "--batch", default=16, show_default=True, type=click.IntRange(1), help="Images in one, with --images."
)
@size_option("Of --images: HxW.  [default: as the file says]", name="input_size")
@click.option(
    "--keep-thresholds", is_flag=True, help="Leave thresholds of a fresh conversion as they are, too."
)
@out_option("File to write.  [default: CHECKPOINT-calibrated.safetensors]")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@model_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def calibrate(
    checkpoint: Path,
    data: str | None,
    images: Path | None,
    batches: int,
    batch: int,
    input_size: tuple[int, ...] | None,
    keep_thresholds: bool,
    out: Path | None,
    force: bool,
    custom: str | None,
    as_json: bool,
) -> None:
    """Measure the statistics of BatchNorm again, on training images.

    CHECKPOINT is a run, its model file or a file of `binarize convert`. In a fresh conversion, thresholds and
    scales that start from data are set first. Weights are not changed.
    """
    if data is not None and images is not None:
        raise click.UsageError("--data and --images cannot be used together.")
    with importing():
        from binarize import files
        from binarize.calibration import calibrated
        from binarize.files import PackedHeader, container
        from binarize.training.folder import model_file

    source = model_file(checkpoint)
    metadata = container.read_metadata(source)
    header = files.read_header(source)
    if isinstance(header, PackedHeader):
        raise ConfigError(f"{str(source)!r} is packed, its norms are folded: calibrate the file before.")
    target = out or source.with_name(f"{source.stem}-calibrated.safetensors")
    check_output(target, force=force, ending=".safetensors", source=source)
    with progress(f"reading {source}"):
        network = read_network(
            source, custom, custom_class=header.source["source"] == "custom", metadata=metadata
        ).float()
    seen: Sequence[Tensor] | _Training
    if images is not None:
        seen = _of_folder(images, batches, batch, input_size, files.read_preprocessing(source))
    else:
        seen = _Training(source, metadata, data, batches)
    with progress("calibrating"):
        network, found = calibrated(network, seen, thresholds="keep" if keep_thresholds else "fresh")
    others = {name: text for name, text in metadata.items() if name != files.ENTRY}
    written = files.save(network, target, source=header.source, entries=others)
    _report(found, written, as_json)


class _Training:
    """The training images of a recipe, in the same batches each time."""

    def __init__(self, source: Path, metadata: dict[str, str], data: str | None, batches: int) -> None:
        from binarize import recipes
        from binarize.training.build import dataset
        from binarize.training.metadata import has_recipe, read_recipe

        root = Path(data) if data is not None and Path(data).is_dir() else None
        if data is not None and root is None:
            self._recipe = recipes.load(data)
        elif has_recipe(metadata):
            self._recipe = read_recipe(metadata, source)
        else:
            raise ConfigError(
                f"{source} was not written by a training, so it names no data: give --images DIR, or --data "
                "with the name of a recipe."
            )
        self._data = dataset(self._recipe, self._recipe.data.train, root=root, training=True)
        self._batches = batches

    def __iter__(self) -> Iterator[Tensor]:
        from binarize.training.recalibrate import training_batches

        return training_batches(self._recipe, self._data, self._batches)


def _of_folder(
    folder: Path,
    batches: int,
    batch: int,
    input_size: tuple[int, ...] | None,
    known: Preprocessing | None,
) -> list[Tensor]:
    """Images of a folder as the network takes them: resized to cover the size, cut to it, normalized."""
    import torch

    from binarize.data.files import images
    from binarize.data.reading import read_image

    if known is None:
        raise ConfigError("--images: the file does not say how images are normalized; give --data RECIPE.")
    size = input_size[-2:] if input_size is not None else known.size
    if size is None:
        raise ConfigError("--images: the file does not say a size; add --input-size HxW.")
    files = images(folder)[: batches * batch]
    shape = (-1, 1, 1)
    mean, std = torch.tensor(known.mean).view(shape), torch.tensor(known.std).view(shape)
    shown = [(_cut(read_image(file), size).float() / 255 - mean) / std for file in files]
    if len(shown) > batch and len(shown) % batch == 1:
        shown.pop()  # a BatchNorm cannot learn from one image alone
    return [torch.stack(shown[at : at + batch]) for at in range(0, len(shown), batch)]


def _cut(image: Tensor, size: Sequence[int]) -> Tensor:
    """(3, H, W) uint8, resized so that it covers `size`, and cut to it in the middle."""
    from torchvision.transforms.v2 import functional as F

    height, width = image.shape[-2:]
    scale = max(size[0] / height, size[1] / width)
    covering = [max(size[0], round(height * scale)), max(size[1], round(width * scale))]
    return F.center_crop(F.resize(image, covering, antialias=True), list(size))


def _report(found: Calibration, written: Path, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        print_json({"file": str(written), **asdict(found)})
        return
    say(f"{counted(found.inputs, 'image')} in {found.batches} parts")
    for what, names in (
        ("start values from data", found.started),
        ("thresholds at the mean", found.thresholds),
    ):
        if names:
            say(f"{what}: {counted(len(names), 'layer')}")
    if not found.norms:
        tell("The network has no BatchNorm: there are no statistics to measure.")
    else:
        shown = found.norms[:_SHOWN]
        say(f"{counted(len(found.norms), 'norm')} measured; those that changed most:")
        for norm in shown:
            say(f"  {norm}")
    say(f"written  {written}")
