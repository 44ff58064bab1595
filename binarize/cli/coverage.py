"""`binarize coverage`: convert and check every model of timm, or networks of other libraries."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from binarize.cli.examples import examples
from binarize.cli.options import DEFAULT_METHOD, listed
from binarize.cli.output import console, print_json, say, shows_progress
from binarize.cli.speed import importing
from binarize.cli.targets import check_output
from binarize.errors import ConfigError

if TYPE_CHECKING:
    from binarize.coverage import Record
    from binarize.coverage.subjects import Use

INCOMPLETE = 1
"""Exit status if a model failed."""


@click.command(
    epilog=examples("""
        # all ResNets of timm, in two processes
        binarize coverage --pattern 'resnet*' --jobs 2
        # networks of another library, by two methods
        binarize coverage --library torchvision --method bidense --method bnn
    """)
)
@click.option(
    "--library",
    "libraries",
    multiple=True,
    default=("timm",),
    show_default=True,
    callback=listed,
    metavar="NAME,...",
    help="timm; smp, torchvision, transformers: about 15 networks of each, mostly dense prediction.",
)
@click.option(
    "--pattern", "patterns", multiple=True, metavar="GLOB", help="Models of these names.  [default: all]"
)
@click.option("--method", "-m", "methods", multiple=True, default=(DEFAULT_METHOD,), show_default=True)
@click.option(
    "--use",
    "uses",
    multiple=True,
    default=("model",),
    show_default=True,
    type=click.Choice(["model", "upernet"]),
    help="timm's as classifiers, or as encoders under UPerNet's decoder.",
)
@click.option("--smallest", is_flag=True, help="Only the smallest model of each of timm's families.")
@click.option(
    "--min-convs",
    default=2,
    show_default=True,
    type=click.IntRange(0),
    help="Leave out timm's models with fewer convolutions.",
)
@click.option(
    "--jobs", "-j", default=1, show_default=True, type=click.IntRange(1), help="Parallel processes."
)
@click.option(
    "--memory",
    type=click.FloatRange(min=0, min_open=True),
    metavar="GB",
    help="Memory for all processes.  [default: 80 % of what is free]",
)
@click.option(
    "--records",
    default="coverage.jsonl",
    show_default=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="File of results; checks that it holds are not run again.",
)
@click.option("--fresh", is_flag=True, help="Run those checks again too; new results replace old ones.")
@click.option(
    "--report-only",
    is_flag=True,
    help="Check nothing: report on all that --records holds. Of several results of a model, use and method,"
    " of any versions, only the last one counts.",
)
@click.option(
    "--markdown",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the report page (docs/coverage.md).",
)
@click.option("--force", is_flag=True, help="Replace the page if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def coverage(
    libraries: tuple[str, ...],
    patterns: tuple[str, ...],
    methods: tuple[str, ...],
    uses: tuple[Use, ...],
    smallest: bool,
    min_convs: int,
    jobs: int,
    memory: float | None,
    records: Path,
    fresh: bool,
    report_only: bool,
    markdown: Path | None,
    force: bool,
    as_json: bool,
) -> int:
    """Convert and check every model of timm, or those that match.

    Each is planned, converted, trained one step, evaluated alone and in a batch, written, read again and run
    at another image size. The exit status is 1 if one fails.

    Networks of other libraries are packed too. The layers that the plan takes for the final ones are compared
    with those of the network's source.

    With --report-only, the last result of each model, use and method counts.
    """
    with importing():
        from binarize import methods as known
        from binarize.coverage import as_document, as_markdown, catalogue, latest, pool, subjects
        from binarize.files import check_target, write_bytes

    for method in methods:
        known.get(method)
    check_target(records)
    if markdown is not None:
        check_output(markdown, force=force, option="--markdown")
    if report_only:
        found = latest(pool.read_records(records))
        if not found:
            raise ConfigError(f"--records {str(records)!r} holds no result; run without --report-only first.")
    else:
        others = [name for name in libraries if name != "timm"]
        if others and (smallest or tuple(uses) != ("model",)):
            option = "--smallest" if smallest else "--use"
            raise ConfigError(
                f"{option} is for timm's models; leave it out with --library {','.join(others)}."
            )
        chosen = catalogue.chosen(libraries, patterns, uses)
        if smallest:
            chosen = subjects.smallest_per_family(chosen)
        budget = int(memory * 1e9) if memory is not None else int(0.8 * pool.available_memory())
        with _bar(len(chosen) * len(methods)) as report:
            work = pool.jobs_for(chosen, methods, min_convs=min_convs)
            found = pool.run(work, processes=jobs, memory=budget, records=records, fresh=fresh, report=report)
    if markdown is not None:
        write_bytes(markdown, as_markdown(found).encode())
    document = as_document(found)
    if as_json:
        print_json(document)
    else:
        _print(found, document)
    return INCOMPLETE if any(record.status == "fail" for record in found) else 0


@contextlib.contextmanager
def _bar(total: int) -> Iterator[Callable[[Record, bool], None]]:
    """Progress on stderr: a bar on a terminal, else a line per failure."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<32.32}"),
        BarColumn(20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(sys.stderr), disable=not shows_progress()) as progress:
        task = progress.add_task("models", total=total)

        def report(record: Record, old: bool) -> None:
            if record.status == "fail":
                text = f"{_name(record)} ({record.use}, {record.method}): {record.failed}: {record.reason}"
                progress.console.print(text, style="red", markup=False, soft_wrap=True)
            progress.update(task, advance=1, description=record.name)

        yield report
        progress.update(task, total=progress.tasks[task].completed, description="done")


def _name(record: Record) -> str:
    return record.name if record.library == "timm" else f"{record.library} {record.name}"


def _print(found: list[Record], document: dict[str, Any]) -> None:
    from rich import box
    from rich.table import Table

    from binarize.coverage.report_libraries import final_layers

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    several = any(row["library"] != "timm" for row in document["totals"])
    words = (*(("library",) if several else ()), "use", "method")
    for column in (*words, "models", "pass", "fail", "none", "meta"):
        table.add_column(column, justify="left" if column in words else "right")
    table.add_column("convs wanted", justify="right")
    table.add_column("converted", justify="right")
    for row in document["totals"]:
        counts = [row[name] for name in ("models", "pass", "fail", "skip", "meta")]
        convs = (row["convs_wanted"], row["convs_converted"])
        table.add_row(*(row[word] for word in words), *(f"{n:,}" for n in (*counts, *convs)))
    console().print(table)
    for record in found:
        if record.library != "timm" and record.status == "pass":
            say(f"{_name(record)} ({record.method}): final layers {final_layers(record) or 'none'}")
    failures = [record for record in found if record.status == "fail"]
    for record in failures:
        say(f"failed: {_name(record)} ({record.use}, {record.method}), {record.failed}: {record.reason}")
    if any(row["skip"] for row in document["totals"]):
        say("none: nothing to convert, the default policy keeps every layer")
    if any(row["meta"] for row in document["totals"]):
        say("meta: too large for this machine's memory; converted without values, only shapes checked")
