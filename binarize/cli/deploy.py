"""`binarize deploy`: from a trained network to the file that runs."""

from __future__ import annotations

from pathlib import Path

import click

from binarize.cli.examples import examples
from binarize.cli.packing import packing_options, write_packed


@click.command(
    epilog=examples("""
        # a trained network
        binarize deploy runs/tiny-bidense --out packed.safetensors
        # floats of 16 bits, and what is fused when it runs
        binarize deploy net.safetensors --float-dtype float16 --fusions
    """)
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--fusions", is_flag=True, help="Print what runs fused on an image, and why other layers do not."
)
@packing_options
def deploy(
    file: Path,
    fusions: bool,
    float_dtype: str,
    best: bool,
    out: Path | None,
    force: bool,
    custom: str | None,
    as_json: bool,
) -> None:
    """Write the network in FILE with one bit per binary weight.

    The same as `export FILE --packed`. binarize.load gives a network that runs on the bits; `predict`,
    `evaluate` and `bench` take the file too.

    Layers with one scale per channel (bidense unless converted with --set granularity=layer) are slower: the
    scale stands inside the sum. Kernels round such scales by default. The file holds them unrounded, and
    binarize.runtime.configure(network, exact_scales=True) switches rounding off.
    """
    write_packed(
        file,
        best=best,
        float_dtype=float_dtype,
        out=out,
        force=force,
        custom=custom,
        with_fusions=fusions,
        as_json=as_json,
    )
