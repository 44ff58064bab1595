"""`binarize bench MODEL`: one packed network and its float counterpart, timed in turn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binarize.cli.bench_networks import Asked, images, networks, output_files, setting, setting_lines
from binarize.cli.output import console, counted, print_json, progress, say, tell
from binarize.tables import BINARY, FLOAT, SLOWER, Name

if TYPE_CHECKING:
    from binarize.bench import Bench

DEFAULT_AGAINST = ("eager", "channels_last")
_LONGEST = 5


def run_single(
    model: str,
    custom: str | None,
    size: tuple[int, ...] | None,
    asked: Asked,
    out: Path | None,
    *,
    fusions: bool,
    as_json: bool,
) -> None:
    """Time one network, print a table, and write files if `out` is given.

    Args:
        model: a file, or a MODEL.
        custom: the float model of a file that holds a custom class.
        size: (H, W) or (C, H, W) of the image; as trained or converted if None.
        asked: the other options.
        out: the files' name without ending.
        fusions: also report what was fused.
        as_json: print JSON in place of the table.
    """
    from binarize import bench as measure
    from binarize import runtime
    from binarize.files import write_bytes

    against = DEFAULT_AGAINST if asked.against is None else asked.against
    measure.check_baselines(against)
    with progress("building"):
        packed, plain, shape = networks(model, custom, asked)
    x = images(model, shape, size, asked.batch)
    with progress("measuring"):
        timed = measure.variants(packed, plain, x, against)
        found = measure.bench(timed, x.shape, **asked.turns)
    document = {**found.as_dict(), **setting(packed)}
    document["differences"] = {v.name: v.difference for v in timed if v.difference is not None}
    document |= {"slower_than": measure.slower_than(found), "advice": measure.advice(found, packed)}
    fused = runtime.fusions(packed) if fusions else None
    if fused is not None:
        document["fusions"] = fused.as_dict()
    if out is not None:
        for_programs, for_people = output_files(out)
        write_bytes(for_programs, (json.dumps(document, indent=2) + "\n").encode())
        write_bytes(for_people, measure.picture(found))
    if as_json:
        print_json(document)
    else:
        print_single(found, document)
        if fused is not None:
            say()
            console().print(fused)


def print_single(found: Bench, document: dict[str, Any]) -> None:
    """The tables of one network; `document` is what --json prints."""
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
    for line in setting_lines(document):
        tell(line)
    console().print(table)
    turn = f", {found.passes} in a row" if found.passes > 1 else ", one of each in turn"
    say(f"Medians of {len(next(iter(found.times.values())))} passes{turn}.")
    if document["slower_than"]:
        names = " and ".join(document["slower_than"])
        tell(f"The packed network is slower than {names}.", SLOWER)
        for text in document["advice"]:
            tell(f"- {text}")
    say()
    _print_parts(found)
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


def _print_parts(found: Bench) -> None:
    """Where the packed network's time goes: by kind, and its longest steps."""
    from rich.table import Table

    if found.no_program:
        tell(f"The network runs as modules, not as a program: {found.no_program}.", SLOWER)
    kinds = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    kinds.add_column("steps of the program" if found.steps else "modules of the packed network")
    for head in ("ms", "G MAC/s", "of peak"):
        kinds.add_column(head, justify="right")
    rates = found.rates()
    for kind, spent in list(found.kinds.items())[:10]:
        rate = rates.get(kind)
        of_peak = f"{rate / found.peak:.0%}" if rate and found.peak else ""
        kinds.add_row(kind, f"{spent:.1f}", f"{rate / 1e9:.0f}" if rate else "", of_peak)
    console().print(kinds)
    if not found.steps:
        return
    longest = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    longest.add_column("longest steps")
    longest.add_column("kind", no_wrap=True)
    longest.add_column("ms", justify="right", no_wrap=True)
    for step in found.steps[:_LONGEST]:
        longest.add_row(Name(step.place), step.kind, f"{1e3 * step.seconds:.1f}")
    say()
    console().print(longest)
    tell("Each step was run and timed alone; in a pass, one call runs all steps that follow each other.")
