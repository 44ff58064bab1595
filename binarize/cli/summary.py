"""`binarize summary`: count a model, or what a file holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from binarize.cli.examples import examples
from binarize.cli.options import size_option
from binarize.cli.output import console, print_json, progress
from binarize.cli.speed import importing, one_thread
from binarize.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from binarize.accounting.summarize import Convention


@click.command(
    epilog=examples(r"""
        # what a file costs, and how large it is when packed
        binarize summary net.safetensors
        # as counted in the paper
        binarize summary 'upernet:convnext_tiny?num_classes=151' --size 480 \
            --convention paper
    """)
)
@click.argument("source", metavar="FILE|MODEL")
@size_option("224, HxW or C,H,W.  [default: as trained, or the model's own]", name="input_size")
@click.option(
    "--convention",
    type=click.Choice(["honest", "paper"]),
    default="honest",
    show_default=True,
    help="honest: costs of the network. paper: counted as in the printed tables of the BiDense paper.",
)
@click.option(
    "--model", "custom", metavar="FILE.py:CALLABLE", help="The float model, if FILE holds a custom class."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def summary(
    source: str, input_size: tuple[int, ...] | None, convention: Convention, custom: str | None, as_json: bool
) -> None:
    """Count parameters, bits and operations, layer by layer.

    The argument is a file written by `convert` or `train`, whose name ends in .safetensors, the folder of a
    run, zoo:NAME, or a MODEL as `convert` takes it.

    The convention `paper` reproduces the Params and OPs that the paper prints for UPerNet on ConvNeXt-Tiny:
    2 OPs per multiply-accumulate, groups ignored, elementwise work included, the head left out, and slips of
    the authors' counter repeated (docstrings of binarize.accounting.paper and paper_slips).
    """
    with importing():
        import timm  # noqa: F401 - takes most of the import time

        from binarize.accounting import summary as count
        from binarize.cli.model import with_channels
        from binarize.files import deployed_size
    with progress(f"reading {source}"), one_thread():
        model, trained, file = _model(source, custom)
        size = with_channels(input_size or trained, model)
    with progress("counting"), one_thread():
        result = count(model, size, convention)
        if file is not None:
            result = result.of_file(deployed_size(file, model))
    if as_json:
        print_json({"model": source, "input_size": list(size), "summary": result.as_dict()})
    else:
        console().print(result)


def _model(source: str, custom: str | None) -> tuple[nn.Module, tuple[int, int] | None, Path | None]:
    """The model in a file, the size it was trained on and the file, or the float model of that name."""
    from binarize.cli.model import network_file, resolve

    file = network_file(source)
    if file is not None:
        from binarize.files import container, load
        from binarize.training.metadata import trained_size

        model = load(file, None if custom is None else resolve(custom))
        return model, trained_size(container.read_metadata(file)), file
    if custom is not None:
        raise ConfigError(f"--model {custom} is for a file; {source!r} is a model itself.")
    return resolve(source), None, None
