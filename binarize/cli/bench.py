"""`binarize bench`: packed networks and their float counterparts, timed in turn."""

from __future__ import annotations

from pathlib import Path

import click

from binarize.cli.bench_networks import Asked, output_files
from binarize.cli.examples import examples
from binarize.cli.options import DEFAULT_METHOD, exact_scales_option, listed, out_option, size_option
from binarize.cli.speed import importing
from binarize.cli.speed import threads as torch_threads
from binarize.cli.targets import refuse_existing
from binarize.errors import ConfigError


@click.command(
    epilog=examples("""
        # against float torch and torch.compile, with one scale per layer
        binarize bench resnet18 --set granularity=layer --against eager,compile
        # a trained network: what was fused, and what was not
        binarize bench runs/tiny-bidense --fusions
        # 13 networks against all programs that are installed
        binarize bench --suite --out suite
    """)
)
@click.argument("model", required=False)
@click.option("--suite", is_flag=True, help="Time a fixed list of networks in place of MODEL.")
@click.option(
    "--pattern", "patterns", multiple=True, metavar="GLOB", help="Networks of the suite.  [default: all]"
)
@click.option("--fresh", is_flag=True, help="Time all of the suite again; do not continue --out.")
@click.option(
    "--method", "-m", help=f"Method, if MODEL is not a file.  [default: {DEFAULT_METHOD}, as for convert]"
)
@click.option("--set", "settings", multiple=True, metavar="OPTION=VALUE", help="Option of the method.")
@click.option(
    "--model", "custom", metavar="FILE.py:CALLABLE", help="The float model, if a file holds a custom class."
)
@size_option("Image size.  [default: as trained, or converted]", name="size")
@click.option("--batch", default=1, show_default=True, type=click.IntRange(1), help="Images at once.")
@click.option(
    "--threads",
    default=1,
    show_default=True,
    type=click.IntRange(1, 1024),
    help="Threads of the kernels, of torch and of the others.",
)
@click.option(
    "--against",
    multiple=True,
    callback=listed,
    metavar="NAME,...",
    help="Some of eager,channels_last,compile,bf16, onnxruntime,onnxruntime-int8, "
    "openvino,openvino-bf16,openvino-int8.  [default: eager,channels_last; of the suite: compile and "
    "all of the last five that are installed]",
)
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(1), help="Turns per network.")
@click.option(
    "--passes", type=click.IntRange(1), help="Passes per turn.  [default: what the packed one does in 50 ms]"
)
@exact_scales_option
@click.option(
    "--precision",
    default="float32",
    show_default=True,
    type=click.Choice(["float32", "bf16"]),
    help="Of the maps that the packed network stores between its layers, and of the weights of float "
    "classifiers.",
)
@click.option("--fusions", is_flag=True, help="Print which layers were fused, and why others were not.")
@click.option("--fresh-memory", is_flag=True, help="Use the C library's memory defaults.")
@out_option("Also write OUT.json and OUT.png.")
@click.option("--force", is_flag=True, help="Replace files that exist. A suite continues, or needs --fresh.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def bench(
    model: str | None,
    suite: bool,
    patterns: tuple[str, ...],
    fresh: bool,
    method: str | None,
    settings: tuple[str, ...],
    custom: str | None,
    size: tuple[int, ...] | None,
    batch: int,
    threads: int,
    against: tuple[str, ...],
    rounds: int,
    passes: int | None,
    exact: bool,
    precision: str,
    fusions: bool,
    fresh_memory: bool,
    out: Path | None,
    force: bool,
    as_json: bool,
) -> int:
    """Time a packed network against its float form.

    MODEL is a file, the folder of a run, zoo:NAME, torchvision:NAME, or a MODEL as `convert` takes it.
    Without options, it is converted and deployed as by `convert` and `deploy`.

    The networks take turns, so that a machine that slows down slows down all of them. Figures are medians of
    all passes. With --passes 1 each pass starts with the data of the other networks in the caches. Memory of
    large maps is kept from pass to pass for all networks alike (binarize.runtime.keep_memory).

    `compile` is torch.compile with frozen weights, torch's fastest; it takes a minute to compile. With one
    thread, some versions of torch run 1x1 convolutions slowly: compare with more than `eager`. Other programs
    than torch (pip install 'binarize[bench]') run an ONNX file of the float network; for -int8 it is
    quantized first. All outputs are compared with the float network's.

    --suite times 13 networks, each packed as by default and, if no --set is given, with one scale per layer.
    With --out, a suite that was stopped continues. The exit status is 1 if a part of it fails.
    """
    _check(model, suite, only_suite=bool(patterns or fresh), only_one=bool(custom or size or fusions))
    with importing():
        from binarize.cli.bench_single import run_single
        from binarize.cli.bench_suite import run_suite
        from binarize.runtime import keep_memory

    targets = output_files(out)
    if not (suite and targets and targets[0].exists()):  # else it continues, or says why it cannot
        refuse_existing(targets, force=force or fresh)
    asked = Asked(
        method=method,
        settings=settings,
        batch=batch,
        threads=threads,
        against=against if against or _given("against") else None,
        rounds=rounds,
        passes=passes,
        exact=exact,
        precision=precision,
        memory_kept=not fresh_memory and keep_memory(),
    )
    with torch_threads(threads):
        if model is None:
            return run_suite(asked, patterns, out, fresh=fresh, as_json=as_json)
        run_single(model, custom, size, asked, out, fusions=fusions, as_json=as_json)
    return 0


def _check(model: str | None, suite: bool, *, only_suite: bool, only_one: bool) -> None:
    """Refuse a MODEL and --suite together, neither, and options of the other one."""
    if suite == (model is not None):
        raise ConfigError("bench: give a MODEL, or --suite for a fixed list of networks; not both.")
    if suite and only_one:
        raise ConfigError("bench: --model, --size and --fusions are for one MODEL.")
    if not suite and only_suite:
        raise ConfigError("bench: --pattern and --fresh are for --suite.")


def _given(name: str) -> bool:
    """Whether the user gave an option, empty or not."""
    source = click.get_current_context().get_parameter_source(name)
    return source is not click.core.ParameterSource.DEFAULT
