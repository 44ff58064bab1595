"""Packed files: how `binarize export --packed` and `binarize deploy` write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from binarize.cli import scale_notes
from binarize.cli.options import best_option, chosen_file, model_option, out_option
from binarize.cli.output import console, print_json, progress, say, tell
from binarize.cli.output import size as _size
from binarize.cli.speed import importing, one_thread
from binarize.cli.targets import check_output
from binarize.errors import ConfigError
from binarize.model_info import converted_size
from binarize.tables import SLOWER

if TYPE_CHECKING:
    from torch import nn

    from binarize.preprocessing import Preprocessing
    from binarize.runtime.fusions import FusionReport
    from binarize.runtime.report import DeployReport

_OPTIONS = (
    click.option(
        "--float-dtype",
        "--leftovers",
        "float_dtype",
        type=click.Choice(["float32", "float16", "bfloat16"]),
        default="float32",
        show_default=True,
        help="How floats are stored; they are read as float32.",
    ),
    best_option,
    out_option("File to write.  [default: FILE-packed.safetensors]"),
    click.option("--force", is_flag=True, help="Replace the file if it exists."),
    model_option,
    click.option("--json", "as_json", is_flag=True, help="Print one JSON document."),
)


def packing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a command that writes a packed file."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def write_packed(
    file: Path,
    *,
    best: bool,
    float_dtype: str,
    out: Path | None,
    force: bool,
    custom: str | None,
    as_json: bool,
    with_fusions: bool = False,
) -> None:
    """Write the packed file of the network in `file`, and print which layers were packed.

    With `with_fusions`, also what was fused in the program for an image.

    Raises:
        ConfigError: there is no such file, it is packed or not of a binary network, or the target cannot be
            written.
        FormatError: the file is corrupt.
    """
    with importing():
        from binarize import files
        from binarize.files import PackedHeader, container
        from binarize.runtime import deploy, report
        from binarize.training.folder import model_file

    source = model_file(chosen_file(file, best))
    metadata = container.read_metadata(source)
    header = files.read_header(source)
    if isinstance(header, PackedHeader):
        raise ConfigError(f"{str(source)!r} is a packed file already.")
    target = out or source.with_name(f"{source.stem}-packed.safetensors")
    check_output(target, force=force, ending=".safetensors", source=source)
    with progress(f"reading {source}"), one_thread():
        model = read_network(
            source, custom, custom_class=header.source["source"] == "custom", metadata=metadata
        )
    if header.plan is None and not _is_binary(model):
        raise ConfigError(
            f"{str(source)!r} holds a float model without weights of one bit: convert it first with "
            "`binarize convert`, or train a recipe that has a method."
        )
    with progress("packing"):
        deployed = deploy(model)
        fused = _fusions(deployed) if with_fusions else None
        written = files.save(
            deployed,
            target,
            source=header.source,
            entries={name: text for name, text in metadata.items() if name != files.ENTRY},
            packed=True,
            float_dtype=float_dtype,
        )
    scales = scale_notes.note(deployed)
    made, images = report(deployed), files.read_preprocessing(written)
    if as_json:
        print_json(
            {
                "file": str(written),
                "bytes": written.stat().st_size,
                "from": str(source),
                "from_bytes": source.stat().st_size,
                "leftovers": float_dtype,
                "scales": scales,
                "preprocessing": None if images is None else images.as_dict(),
                "report": made.as_dict(),
                **({} if fused is None else {"fusions": fused.as_dict()}),
            }
        )
    else:
        _print(made, source, written, images)
        if scales:
            tell(scales)
        if fused is not None:
            say()
            console().print(fused)


def _fusions(deployed: nn.Module) -> FusionReport:
    """What is fused on an image of the size that the network was converted on.

    Raises:
        ConfigError: the network takes no images.
    """
    from binarize.bench.random_images import random_images
    from binarize.runtime import fusions

    shape = converted_size(deployed)
    if shape is None:
        raise ConfigError("deploy: --fusions is for networks that take images.")
    return fusions(deployed, random_images((1, *shape), 0))


def _print(made: DeployReport, source: Path, written: Path, images: Preprocessing | None) -> None:
    console().print(made)
    for name, why in made.refused.items():
        tell(f"not packed: {name}: {why}", SLOWER)
    say()
    say(f"written  {written}")
    before, after = source.stat().st_size, written.stat().st_size
    say(f"         ({_size(after)}, for inference; {source.name}: {_size(before)})")
    if images is not None:
        tell(f"images   {images}")


def read_network(
    source: Path, custom: str | None, *, custom_class: bool, metadata: dict[str, Any]
) -> nn.Module:
    """The network in the file; for a custom class, from --model or from the recipe that trained it."""
    from binarize import files
    from binarize.cli.model import resolve

    if custom is not None:
        return files.load(source, resolve(custom))
    if custom_class:
        from binarize.training import saved
        from binarize.training.metadata import has_recipe

        if has_recipe(metadata):
            return saved.load(source)[1]
    return files.load(source)


def _is_binary(model: nn.Module) -> bool:
    from binarize.layers import BinaryLayer

    return any(isinstance(module, BinaryLayer) for module in model.modules())
