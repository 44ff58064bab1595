"""`binarize bench`: a packed network and its float counterpart, timed in turn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from binarize.cli.options import DEFAULT_METHOD, InputSize, configure, out_option
from binarize.cli.output import console, counted, print_json, progress, say, tell
from binarize.cli.speed import importing
from binarize.cli.speed import threads as torch_threads
from binarize.errors import ConfigError
from binarize.model_info import DEFAULT_SIZE, converted_size, plan_of
from binarize.tables import BINARY, FLOAT, SLOWER

if TYPE_CHECKING:
    from torch import Tensor, nn

    from binarize.bench import Bench
    from binarize.runtime import RuntimeOptions


@click.command()
@click.argument("model")
@click.option(
    "--method", "-m", help=f"Method, if MODEL is not a file.  [default: {DEFAULT_METHOD}, as for convert]"
)
@click.option("--set", "settings", multiple=True, metavar="OPTION=VALUE", help="Option of the method.")
@click.option(
    "--model", "custom", metavar="FILE.py:CALLABLE", help="The float model, if a file holds a custom class."
)
@click.option("--size", type=InputSize(), help="Image size.  [default: as trained, or converted]")
@click.option("--batch", default=1, show_default=True, type=click.IntRange(1), help="Images at once.")
@click.option(
    "--threads",
    default=1,
    show_default=True,
    type=click.IntRange(1, 1024),
    help="Threads of torch and of the kernels.",
)
@click.option(
    "--against",
    default="eager,channels_last",
    show_default=True,
    help="Some of eager,channels_last,compile,bf16.",
)
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(1), help="Turns per network.")
@click.option(
    "--passes", type=click.IntRange(1), help="Passes per turn.  [default: what the packed one does in 50 ms]"
)
@click.option(
    "--exact/--approximate",
    default=None,
    help="Scales per channel in float, or from tables of 16 bits.  [default: as deploy]",
)
@click.option("--fresh-memory", is_flag=True, help="Use the C library's memory defaults.")
@out_option("Also write OUT.json and OUT.png.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def bench(
    model: str,
    method: str | None,
    settings: tuple[str, ...],
    custom: str | None,
    size: tuple[int, ...] | None,
    batch: int,
    threads: int,
    against: str,
    rounds: int,
    passes: int | None,
    exact: bool | None,
    fresh_memory: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Time the packed form of MODEL and the float network.

    MODEL is a file, the folder of a run, zoo:NAME, or a MODEL of `convert`. Without options, the network is
    what `convert` and `deploy` make of it.

    Memory of large maps is kept from pass to pass (binarize.runtime.keep_memory) for all of them alike.
    They take turns: if the machine slows down, it slows down all of them. Figures are medians of all passes.
    With --passes 1 each pass starts with the data of the other networks in the caches. `compile` is
    torch.compile with frozen weights, the strongest float baseline; it takes a minute to compile. With one
    thread, some versions of torch run 1x1 convolutions slowly: compare with more than `eager`.
    """
    with importing():
        from binarize import bench as measure
        from binarize.files import check_target
        from binarize.runtime import keep_memory

    for target in _targets(out):
        check_target(target)
    kept = not fresh_memory and keep_memory()
    with torch_threads(threads):
        with progress("building"):
            options = _runtime_options(threads, exact)
            packed, plain, shape = _networks(model, custom, method, settings, options)
        x = _images(model, shape, size, batch)
        names = list(dict.fromkeys(name for name in against.split(",") if name))
        with progress("measuring"):
            found = measure.bench(
                measure.variants(packed, plain, x, names),
                x.shape,
                rounds=rounds,
                passes=passes,
                memory_kept=kept,
            )
    document = {**found.as_dict(), **_setting(packed, options)}
    document |= {"slower_than": measure.slower_than(found), "advice": measure.advice(found, packed)}
    if out is not None:
        _write(out, found, document)
    if as_json:
        print_json(document)
    else:
        _print(found, document)


def _targets(out: Path | None) -> tuple[Path, ...]:
    """The files that --out names."""
    return () if out is None else tuple(out.with_name(f"{out.name}.{ending}") for ending in ("json", "png"))


def _write(out: Path, found: Bench, document: dict[str, Any]) -> None:
    import json

    from binarize.bench import picture
    from binarize.files import write_bytes

    for_programs, for_people = _targets(out)
    write_bytes(for_programs, (json.dumps(document, indent=2) + "\n").encode())
    write_bytes(for_people, picture(found))


def _images(model: str, shape: tuple[int, ...], size: tuple[int, ...] | None, batch: int) -> Tensor:
    """A random image (N, C, H, W) of the size in --size, or else of (C, H, W) `shape`."""
    import torch

    channels = shape[0]
    if size is not None and len(size) == 3 and size[0] != channels:
        raise ConfigError(f"bench: --size {','.join(map(str, size))}: {model} takes {channels} channels.")
    height, width = (shape if size is None else size)[-2:]
    return torch.rand(batch, channels, height, width, generator=torch.Generator().manual_seed(0))


def _method_text(method: dict[str, Any]) -> str:
    """The method's name, and the options that differ from their defaults."""
    from binarize import methods

    usual = methods.create(method["name"]).as_dict()["options"]
    return ", ".join(
        [method["name"], *(f"{k}={v}" for k, v in method["options"].items() if usual.get(k) != v)]
    )


def _runtime_options(threads: int, exact: bool | None) -> RuntimeOptions:
    """The defaults of `deploy`, with the threads that are timed."""
    import dataclasses

    from binarize.runtime import RuntimeOptions

    options = dataclasses.replace(RuntimeOptions(), threads=threads)
    return options if exact is None else dataclasses.replace(options, exact_scales=exact)


def _setting(packed: nn.Module, options: RuntimeOptions) -> dict[str, Any]:
    """What was timed."""
    return {"method": plan_of(packed).method, "exact_scales": options.exact_scales}


def _networks(
    model: str,
    custom: str | None,
    method: str | None,
    settings: tuple[str, ...],
    options: RuntimeOptions,
) -> tuple[nn.Module, nn.Module, tuple[int, ...]]:
    """The packed network, a float one like it, and the (C, H, W) that it was trained or converted on."""
    import binarize
    from binarize import files, runtime
    from binarize.cli.model import network_file, resolve

    trained = None
    path = network_file(model)
    if path is not None:
        from binarize.files import container
        from binarize.training.metadata import trained_size

        if method or settings:
            raise ConfigError("bench: --method and --set are for a MODEL that is not a file.")
        trained = trained_size(container.read_metadata(path))
        source = files.read_header(path).source
        if source["source"] == "custom":
            if custom is None:
                raise ConfigError(
                    f"{path} holds a custom class: give its float form, --model FILE.py:CALLABLE."
                )
            plain = resolve(custom)
        else:
            plain = files.build(source)
        converted = files.load(path, plain if custom is not None else None)
    else:
        if custom is not None:
            raise ConfigError(f"bench: --model {custom} is for a file; {model!r} is a model itself.")
        chosen = configure(method or DEFAULT_METHOD, settings)
        plain = resolve(model)
        converted = binarize.apply(plain, chosen)
    plan = plan_of(converted)
    if plan is None:
        raise ConfigError(f"{model} holds a float network: convert it first.")
    shape = converted_size(converted) or DEFAULT_SIZE
    if plan.inputs and converted_size(converted) is None:
        raise ConfigError(f"{model} takes inputs of {plan.inputs}; bench is for networks that take images.")
    if trained is not None:
        shape = (shape[0], *trained)
    if runtime.deployed_layers(converted):
        packed = converted
        for layer in runtime.deployed_layers(packed).values():
            layer.options = options
    else:
        packed = runtime.deploy(converted, threads=options.threads, exact_scales=options.exact_scales)
    return packed, plain.eval(), shape


def _print(found: Bench, document: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("network")
    for head in ("median ms", "least ms", "times as long"):
        table.add_column(head, justify="right")
    for row in document["variants"]:
        slower = row["name"] in document["slower_than"]
        table.add_row(
            row["name"],
            f"{row['median_ms']:.1f}",
            f"{row['least_ms']:.1f}",
            "" if row["name"] == "packed" else f"{row['times_as_long']:.2f}",
            style=BINARY if row["name"] == "packed" else SLOWER if slower else FLOAT,
        )
    shape = "x".join(map(str, found.shape))
    machine = found.machine
    threads = counted(found.threads, "thread")
    say(f"{shape}, {threads}, {machine['cpu']} ({machine['kernels']}), torch {machine['torch']}")
    scales = "exact" if document["exact_scales"] else "approximate"
    tell(f"{_method_text(document['method'])}; {scales} scales")
    console().print(table)
    turn = f", {found.passes} in a row" if found.passes > 1 else ", one of each in turn"
    say(f"Medians of {len(next(iter(found.times.values())))} passes{turn}.")
    if document["slower_than"]:
        names = " and ".join(document["slower_than"])
        tell(f"The packed network is slower than {names}.", SLOWER)
        for text in document["advice"]:
            tell(f"- {text}")
    say()
    kinds = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    kinds.add_column("inside the packed network")
    for head in ("ms", "G MAC/s", "of peak"):
        kinds.add_column(head, justify="right")
    rates = found.rates()
    for kind, spent in list(found.kinds.items())[:10]:
        rate = rates.get(kind)
        of_peak = f"{rate / found.peak:.0%}" if rate and found.peak else ""
        kinds.add_row(kind, f"{spent:.1f}", f"{rate / 1e9:.0f}" if rate else "", of_peak)
    console().print(kinds)
    if found.peak:
        peak = f"{found.peak / 1e9:.0f} G/s"
        tell(
            f"MAC: a multiply-accumulate of one bit; the peak, {peak}, is that of a loop on registers alone. "
            "All other work in the time of a part lowers its rate."
        )
    if "compile" not in found.times:
        tell("Not measured: torch.compile (--against compile), the strongest float baseline.")
    if found.threads == 1 and "eager" in found.times:
        tell("On one thread, some versions of torch run 1x1 convolutions slowly in `eager`.")
