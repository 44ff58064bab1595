"""`binarize deploy`: from a trained network to the file that runs."""

from __future__ import annotations

from pathlib import Path

import click

from binarize.cli.packing import packing_options, write_packed


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@packing_options
def deploy(
    file: Path, float_dtype: str, out: Path | None, force: bool, custom: str | None, as_json: bool
) -> None:
    """Write the binary network in FILE with one bit per binary weight.

    The same as `export FILE --packed`. binarize.load gives a network that runs on the bits; `predict`,
    `evaluate` and `bench` take the file too.
    """
    write_packed(file, float_dtype=float_dtype, out=out, force=force, custom=custom, as_json=as_json)
