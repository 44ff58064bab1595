"""`binarize export`: a trained binary network in, a small file for inference out."""

from __future__ import annotations

from pathlib import Path

import click

from binarize.cli.examples import examples
from binarize.cli.options import chosen_file, size_option
from binarize.cli.output import progress, say, tell
from binarize.cli.output import size as _size
from binarize.cli.packing import packing_options, read_network, write_packed
from binarize.cli.speed import importing, one_thread
from binarize.cli.targets import check_output
from binarize.errors import ConfigError, first_line
from binarize.model_info import converted_size


@click.command(
    epilog=examples("""
        # the packed file, as `deploy` writes it
        binarize export runs/tiny-bidense --packed --out packed.safetensors
        # float operators, for other runtimes
        binarize export runs/tiny-bidense --onnx net.onnx --size 64
    """)
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--packed", is_flag=True, help="One bit per binary weight, in one safetensors file.")
@click.option("--onnx", "onnx_out", type=click.Path(path_type=Path), help="ONNX file to write, in floats.")
@size_option("Image size.  [default: as trained, or converted]", name="size")
@packing_options
def export(
    file: Path,
    packed: bool,
    onnx_out: Path | None,
    size: tuple[int, ...] | None,
    float_dtype: str,
    best: bool,
    out: Path | None,
    force: bool,
    custom: str | None,
    as_json: bool,
) -> None:
    """Write the binary network in FILE for inference.

    FILE was written by `convert` or `train` (or is the folder of a run). The new file cannot be trained
    further: keep FILE. `summary`, `evaluate`, `predict` and binarize.load read both. With --onnx, FILE may be
    packed, and the signs are floats again: for runtimes without binary operators.
    """
    if packed == (onnx_out is not None):
        raise click.UsageError("choose what to write: --packed, or --onnx OUT.")
    if onnx_out is not None:
        _onnx(chosen_file(file, best), onnx_out, size, custom, force=force)
        return
    if size is not None:
        raise click.UsageError("--size is for --onnx; a packed network takes images of any size.")
    write_packed(
        file, best=best, float_dtype=float_dtype, out=out, force=force, custom=custom, as_json=as_json
    )


def _onnx(file: Path, target: Path, size: tuple[int, ...] | None, custom: str | None, *, force: bool) -> None:
    with importing():
        from binarize import files
        from binarize.files import container
        from binarize.preprocessing import preprocessing_of
        from binarize.runtime import deploy, deployed_layers, to_onnx
        from binarize.training.folder import model_file
        from binarize.training.metadata import meaning, trained_size

    source = model_file(file)
    metadata = container.read_metadata(source)
    check_output(target, force=force, option="--onnx", source=source)
    with progress(f"reading {source}"), one_thread():
        custom_class = files.read_header(source).source["source"] == "custom"
        model = read_network(source, custom, custom_class=custom_class, metadata=metadata)
    deployed = model if deployed_layers(model) else deploy(model)
    known = size or trained_size(metadata) or converted_size(deployed)
    if known is None:
        raise ConfigError(
            f"{str(source)!r} does not hold the size it was trained or converted for: give --size."
        )
    wanted = known[-2:]
    with progress("exporting"):
        name, entries = meaning(metadata)
        try:
            data = to_onnx(deployed, wanted, output=name, metadata=entries)
        except ConfigError as error:
            raise ConfigError(f"{error}{_first_cause(error)}") from error
        files.write_bytes(target, data)
    say(f"written  {target}")
    say(f"         ({_size(len(data))}, images of {wanted[0]}x{wanted[1]})")
    if (images := preprocessing_of(deployed)) is not None:
        tell(f"images   {images.at(wanted)}")


def _first_cause(error: ConfigError) -> str:
    """The error below those of the exporter's steps, whose own first lines do not say what went wrong."""
    raised = error.__cause__
    first = raised
    while first is not None and (below := first.__cause__) is not None:
        first = below
    if first is None or first is raised:
        return ""
    return f" The cause: {type(first).__name__}: {first_line(first)}"
