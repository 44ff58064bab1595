"""`binarize convert`: a float model in, a binary model in a file out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from binarize.cli import scale_notes
from binarize.cli.examples import examples
from binarize.cli.options import DEFAULT_METHOD, configure, default_out, out_option, size_option
from binarize.cli.output import console, print_json, say, size, tell
from binarize.cli.speed import Clock, importing
from binarize.cli.targets import check_output
from binarize.errors import TraceError, warn
from binarize.tables import BINARY, SLOWER

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from binarize.graph import Plan, Policy
    from binarize.methods import Method
    from binarize.model_info import ImageSize
    from binarize.preprocessing import Preprocessing


@click.command(
    epilog=examples(r"""
        # only print the plan: what becomes binary, what does not, and why
        binarize convert resnet18 --dry-run
        # one scale per layer, for speed
        binarize convert resnet18 --set granularity=layer --out net.safetensors
        # a network for segmentation; the last two layers stay float
        binarize convert 'upernet:convnext_atto?num_classes=19' --method reactnet \
            --last 2 --size 480x640
    """)
)
@click.argument("model")
@click.option("--method", "-m", default=DEFAULT_METHOD, show_default=True, help="See `binarize methods`.")
@out_option("File to write.  [default: MODEL-METHOD.safetensors]")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@click.option("--pretrained", is_flag=True, help="Start from timm's pretrained weights.")
@click.option("--checkpoint", metavar="FILE", help="Start from the weights in FILE (.safetensors, .pth...).")
@click.option("--keep", multiple=True, metavar="GLOB", help="Keep layers of these names in float.")
@click.option("--only", multiple=True, metavar="GLOB", help="Convert layers of these names only.")
@click.option(
    "--first", default=1, show_default=True, type=click.IntRange(0), help="Layers to keep at the input."
)
@click.option(
    "--last", default=1, show_default=True, type=click.IntRange(0), help="Layers to keep at each output."
)
@click.option("--set", "settings", multiple=True, metavar="OPTION=VALUE", help="Set an option of the method.")
@size_option("224, HxW or C,H,W.  [default: the model's own]", name="input_size")
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(0, 2**63 - 1),
    help="Seed of all random start values.",
)
@click.option("--dry-run", is_flag=True, help="Print the plan; convert and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def convert(
    model: str,
    method: str,
    out: Path | None,
    force: bool,
    pretrained: bool,
    checkpoint: str | None,
    keep: tuple[str, ...],
    only: tuple[str, ...],
    first: int,
    last: int,
    settings: tuple[str, ...],
    input_size: tuple[int, ...] | None,
    seed: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Turn MODEL into a binary network and write it to a file.

    \b
    MODEL is one of
      convnext_tiny, 'resnet18?num_classes=10'    a timm model
      'upernet:convnext_tiny?num_classes=19'      a dense-prediction network
      path/to/file.py:callable                    returns an nn.Module

    Speed: bidense has one scale per channel by default. It stands inside the sum, which makes packed kernels
    slower. --set granularity=layer has one scale per layer and is the fastest; --set granularity=group has a
    few per layer and is nearly as fast (docs/performance.md).
    """  # noqa: D301 - \b tells click to leave the lines as they are
    if pretrained and checkpoint is not None:
        raise click.UsageError("--pretrained and --checkpoint cannot be used together.")
    clock = Clock()
    with importing(), clock.timed("import"):
        import timm  # noqa: F401 - so that its import is not counted as the engine's time
        import torch

        from binarize import accounting, files, graph  # noqa: F401 - the first two are used below
        from binarize.cli.model import label, weights_of, with_channels
        from binarize.random_state import drawing_from

    chosen = configure(method, settings)
    policy = graph.Policy(keep=keep, only=only, first=first, last=last)
    target = out or default_out(label(model), method)
    if not dry_run:
        check_output(target, force=force, ending=".safetensors")
    generator = torch.Generator().manual_seed(seed)  # for weights that are not loaded
    with clock.phase("build", f"building {model}"), drawing_from(generator):
        network, loaded = _float_network(model, pretrained, checkpoint)
    weights, remark = weights_of(model, network, pretrained=pretrained, checkpoint=checkpoint is not None)
    shape = with_channels(input_size, network)
    with clock.phase("engine", "planning"):
        plan = _plan(model, network, chosen, policy, shape)
    document = _planned(model, chosen, shape, weights, loaded, plan)
    if dry_run:
        _finish(document, clock, as_json, plan)
        return
    generator.manual_seed(seed)
    converted, images = _written(model, network, plan, target, generator, clock)
    document |= converted
    _finish(document, clock, as_json, plan, remark, "" if images is None else str(images))


def _plan(model: str, network: nn.Module, method: Method, policy: Policy, shape: ImageSize) -> Plan:
    """The plan; of a network that takes no images, the error says that only Python can make it."""
    from binarize import graph
    from binarize.cli.model import takes_images

    try:
        return graph.plan(network, method, policy=policy, example_inputs=_example(shape))
    except TraceError as error:
        if takes_images(network):
            raise
        raise TraceError(
            f"{model}: {type(network).__name__} does not run on images of {'x'.join(map(str, shape))}, and "
            f"`convert` has no other inputs. Convert it in Python: binarize.apply(model, {method.name!r}, "
            "example_inputs=...), with what its forward takes, and binarize.save."
        ) from error


def _planned(
    model: str, method: Method, shape: ImageSize, weights: str, loaded: dict[str, str] | None, plan: Plan
) -> dict[str, Any]:
    """The document of a plan that is not executed yet."""
    return {
        "model": model,
        "method": method.as_dict(),
        "input_size": list(shape),
        "weights": weights,
        "checkpoint": loaded,
        "plan": plan.as_dict(),
        "summary": None,
        "scales": "",
        "file": None,
    }


def _float_network(
    model: str, pretrained: bool, checkpoint: str | None
) -> tuple[nn.Module, dict[str, str] | None]:
    """The network that MODEL names, and a report on --checkpoint as JSON holds it."""
    from binarize import files
    from binarize.cli.model import resolve

    network = resolve(model, pretrained=pretrained)
    if checkpoint is None:
        return network, None
    parts = ["encoder"] if ":" in model and hasattr(network, "encoder") else []
    report = files.load_checkpoint(network, checkpoint, parts=parts)
    if report.part:
        warn(f"{checkpoint}: fits the {report.part} alone ({report}); the other weights are random.")
    return network, {"file": checkpoint, "entry": report.entry, "loaded": str(report)}


def _written(
    model: str, network: nn.Module, plan: Plan, target: Path, generator: Generator, clock: Clock
) -> tuple[dict[str, Any], Preprocessing | None]:
    """Convert and write the network: the document's part on the file, and the preprocessing of images."""
    from binarize import accounting, files, graph
    from binarize.cli.model import is_code

    baseline = _state_bytes(network)
    source = None if is_code(model) else getattr(network, "binarize_spec", None)
    with clock.phase("engine", "converting"):
        converted = graph.execute(plan, network, copy=False, generator=generator)  # built here: no copy
    with clock.phase("count", "counting"):
        counted = accounting.summary(converted, plan.inputs[0])
    with clock.phase("write", "writing"):
        written = files.save(converted, target, source=source)
        counted = counted.of_file(files.deployed_size(written, converted))
    images = files.read_preprocessing(written)
    return {
        "scales": scale_notes.note(converted),
        "summary": counted.as_dict(),
        "float_bytes": baseline,
        "file": str(written),
        "bytes": written.stat().st_size,
        "preprocessing": None if images is None else images.as_dict(),
        "custom": files.read_header(written).source["source"] == "custom",
    }, images


def _example(shape: tuple[int, int, int]) -> Tensor:
    """An input of that shape; its values matter only to control flow that depends on them."""
    import torch

    return torch.zeros(()).expand(1, *shape)  # one number in memory, whatever the size


def _state_bytes(model: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def _finish(
    document: dict[str, Any], clock: Clock, as_json: bool, plan: Plan, remark: str = "", images: str = ""
) -> None:
    document["seconds"] = {phase: round(seconds, 3) for phase, seconds in clock.seconds.items()}
    if as_json:
        if remark:
            click.echo(f"Note: {remark}", err=True)
        print_json(document)
        return
    console().print(plan)
    say()
    if (loaded := document["checkpoint"]) is not None:
        say(f"weights  {loaded['file']}: {loaded['loaded']}")
    if document["file"] is None:
        say("Dry run: nothing was converted or written.")
        return
    _print_totals(document)
    say()
    say(f"engine   {clock.seconds['engine']:.2f} s of {sum(clock.seconds.values()):.1f} s")
    say(f"written  {document['file']}")
    say(f"         ({size(document['bytes'])}: latent weights, for training)")
    if images:
        tell(f"images   {images}")
    if document["scales"]:
        tell(document["scales"])
    if remark:
        tell(f"weights  {remark}", SLOWER)
    say()
    _print_next(document)


def _print_next(document: dict[str, Any]) -> None:
    """Commands that go on from here."""
    from binarize.cli.model import is_code

    tell(
        "Next: count it layer by layer, or train it (a conversion keeps the weights, not the accuracy), in "
        "Python or on the command line:"
    )
    model, file = document["model"], document["file"]
    given = (f" --model {_quoted(model)}", ", model=...") if document["custom"] else ("", "")
    say(f"  binarize summary {_quoted(file)}{given[0]}")
    say(f"  binarize.load({file!r}{given[1]})")
    if is_code(model):  # without options: `init` finds the number of classes in the masks
        network = model.partition("?")[0]
        say(f"  binarize init --images DIR --masks DIR --network {_quoted(network)}")


def _print_totals(document: dict[str, Any]) -> None:
    from rich.table import Table

    counted = document["summary"]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title_justify="left")
    table.add_column("")
    for column, style in (("1-bit", BINARY), ("32-bit", ""), ("share 1-bit", "")):
        table.add_column(column, justify="right", style=style)
    of_size = f"MACs at {'x'.join(map(str, document['input_size'][1:]))}"
    for what, name in (("parameters", "params"), (of_size, "macs")):
        binary, real = counted[f"binary_{name}"], counted[f"float_{name}"]
        share = f"{binary / (binary + real):.1%}" if binary + real else "-"
        table.add_row(what, f"{binary:,}", f"{real:,}", share)
    console().print(table)
    packed, before = counted["packed_bytes"], document["float_bytes"]
    if counted["header_bytes"] is not None:
        say(f"file when packed: {packed:,} bytes ({size(packed)})")
        tell(f"weights in float: {before:,} bytes ({size(before)}), {before / packed:.1f} times as many")
    if counted["uncounted"]:
        say(f"not counted: {len(counted['uncounted'])} parts of the network; see binarize summary")


def _quoted(path: str) -> str:
    import shlex

    return shlex.quote(path)
