"""`binarize inspect`: look into trained networks, in pictures, numbers and sentences."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from binarize.cli.examples import examples
from binarize.cli.options import DEFAULT_METHOD, float_model, listed, model_option, out_option
from binarize.cli.output import console, counted, print_json, progress_bar, say, tell
from binarize.cli.speed import importing
from binarize.cli.targets import refuse_existing
from binarize.errors import ConfigError, unknown_name, warn
from binarize.tables import WORSE

if TYPE_CHECKING:
    from binarize.inspect.inspection import Skipped
    from binarize.inspect.section import Section
    from binarize.inspect.subject import Subject

_FORMS = ("png", "svg", "pdf")


@click.command(
    epilog=examples(r"""
        # everything about one run
        binarize inspect runs/tiny-bidense --out look
        # the entropy of two networks in one plot
        binarize inspect zoo:camvid-bnn zoo:camvid-bidense --what entropy \
            --data CamVid
        # which layers to keep float for 100 kB more
        binarize inspect runs/tiny-bidense --what sensitivity --budget-bytes 1e5
    """)
)
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--data", "root", type=click.Path(path_type=Path), help="Folder of the data set.")
@click.option("--split", help="Part of the data set.  [default: the first recipe's test]")
@out_option("Folder for pictures and numbers.", file_okay=False, default=Path("inspect"), show_default=True)
@click.option(
    "--what", multiple=True, callback=listed, metavar="A,B...", help="Analyses.  [default: all of them]"
)
@click.option(
    "--images",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="How many images, spread over the split.",
)
@click.option(
    "--format",
    "forms",
    multiple=True,
    callback=listed,
    metavar="F,F...",
    help="Of pictures: png, svg, pdf.  [default: png]",
)
@click.option(
    "--by",
    type=click.Choice(["layer", "block"]),
    default="block",
    show_default=True,
    help="Sensitivity of single layers, or of blocks.",
)
@click.option(
    "--method",
    "-m",
    default=DEFAULT_METHOD,
    show_default=True,
    help="Sensitivity of a float network: which method makes its layers binary.",
)
@click.option(
    "--budget-bytes",
    type=click.FloatRange(min=0),
    help="Suggest layers to keep float, for this many more bytes.",
)
@click.option(
    "--budget-ops", type=click.FloatRange(min=0), help="The same, for this many more operations per image."
)
@model_option
@click.option("--force", is_flag=True, help="Replace files that exist.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def inspect(
    runs: tuple[Path, ...],
    root: Path | None,
    split: str | None,
    out: Path,
    what: tuple[str, ...],
    images: int,
    forms: tuple[str, ...],
    by: Any,
    method: str,
    budget_bytes: float | None,
    budget_ops: float | None,
    custom: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Draw and measure what happens inside trained networks.

    RUN... are folders of runs, files of `binarize train` or zoo:NAME, all of one data set.

    \b
    entropy      of binary activations, layer by layer (paper's Figure 6d)
    parameters   that quantizers have learnt, over depth (Figure 6a-c)
    maps         in front of and behind the first binarization (Figure 3)
    weights      latent weights: distribution, signs, flips
    bypass       share of each output's variance that comes through it
    gradients    that reach each latent weight
    sensitivity  what the main figure gains from layers that stay float

    Each writes a picture, its numbers as JSON and as CSV. Packed files have no latent weights: gradients and
    sensitivity need the run. docs/inspect.md has the formulas.
    """  # noqa: D301 - \b is click's
    chosen = _analyses(what)
    forms = forms or ("png",)
    if unknown := [form for form in forms if form not in _FORMS]:
        raise ConfigError(f"--format {unknown[0]!r}: expected png, svg or pdf.")
    with importing():
        from binarize.comparison import labels
        from binarize.files import write_bytes
        from binarize.inspect.inspection import Settings, Skipped, inspect_networks
        from binarize.inspect.subject import load_networks, load_subjects
        from binarize.methods import METHODS
        from binarize.runtime import keep_memory

    if "sensitivity" not in chosen and (budget_bytes is not None or budget_ops is not None):
        warn("--budget-bytes and --budget-ops are for sensitivity, which --what leaves out: add it there.")
    METHODS.get(method)  # a wrong name is an error now, not after minutes
    keep_memory()
    loaded = load_networks(runs, float_model(custom))
    names = labels([recipe for recipe, _ in loaded], runs)
    subjects = load_subjects(runs, _unique(names), loaded, root=root, split=split, images=images)
    settings = Settings(
        by=by, method=method, budget_bytes=budget_bytes, budget_ops=budget_ops, watch=_watched
    )
    _prepare(out, chosen, forms, force)
    written: list[Path] = []
    sections: list[Section] = []
    skipped: list[Skipped] = []
    for found in inspect_networks(subjects, chosen, settings):
        if isinstance(found, Skipped):
            skipped.append(found)
            continue
        sections.append(found)
        for name, content in _files(found, forms).items():
            write_bytes(out / name, content)
            written.append(out / name)
    if not sections:
        raise ConfigError(f"inspect: nothing to show: {'; '.join(_texts(skipped))}.")
    if as_json:
        print_json(_document(subjects, sections, skipped, written))
    else:
        _print(subjects, sections, skipped, out, len(written))


def _analyses(what: Sequence[str]) -> tuple[str, ...]:
    from binarize.inspect.applicable import ANALYSES

    if unknown := [name for name in what if name not in ANALYSES]:
        raise ConfigError(f"--what: {unknown_name('analysis', unknown[0], ANALYSES)}")
    return tuple(name for name in ANALYSES if not what or name in what)


def _unique(names: Sequence[str]) -> list[str]:
    """Labels that tell networks apart, also where one was given twice."""
    return [name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names, start=1)]


def _prepare(out: Path, chosen: Sequence[str], forms: Sequence[str], force: bool) -> None:
    """Make the folder; refuse files of an earlier inspection now, not after the work of minutes."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {out}: {error.strerror or error}.") from error
    endings = (*forms, "json", "csv")
    names = [f"{name}{rest}.{end}" for name in chosen for end in endings for rest in ("", "-*")]
    refuse_existing([path for name in names for path in sorted(out.glob(name))], force=force)


def _files(section: Section, forms: Sequence[str]) -> dict[str, bytes]:
    """The files of a section, by name."""
    pictures = {f"{section.name}.{form}": section.picture(form) for form in forms}
    return {**pictures, f"{section.name}.json": section.json(), f"{section.name}.csv": section.csv()}


@contextlib.contextmanager
def _watched(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar for one analysis of one network."""
    with progress_bar("{task.description}", counts=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)


def _texts(skipped: Sequence[Skipped]) -> list[str]:
    """What was left out, one sentence for each reason."""
    texts = []
    for reason in dict.fromkeys(one.reason for one in skipped):
        same = [one for one in skipped if one.reason == reason]
        what, where = (
            ", ".join(dict.fromkeys(v)) for v in ([s.analysis for s in same], [s.label for s in same])
        )
        texts.append(f"{what} of {where}: {reason}")
    return texts


def _document(
    subjects: Sequence[Subject],
    sections: Sequence[Section],
    skipped: Sequence[Skipped],
    written: Sequence[Path],
) -> dict[str, Any]:
    first = subjects[0]
    return {
        "networks": {one.label: str(one.path) for one in subjects},
        "data": first.recipe.data.name,
        "images": len(first.data),
        "sections": [{"name": section.name, **section.document()} for section in sections],
        "skipped": [vars(one) for one in skipped],
        "files": [str(path) for path in written],
    }


def _print(
    subjects: Sequence[Subject],
    sections: Sequence[Section],
    skipped: Sequence[Skipped],
    out: Path,
    files: int,
) -> None:
    """One table of all networks, then the findings in words."""
    console().print(_table(subjects, sections))
    for section in sections:
        say()
        tell(section.title)
        for text in section.findings:
            tell(f"- {text}")
        for text in section.warnings:
            tell(f"- Look at this: {text}", style=WORSE)
    if skipped:
        say()
        for text in _texts(skipped):
            tell(f"Left out: {text}.")
    say()
    say(f"{counted(files, 'file')}: {out}")


def _table(subjects: Sequence[Subject], sections: Sequence[Section]) -> Any:
    """A row for each network, a column for each figure that one number can stand for."""
    from rich.table import Table

    from binarize.inspect.summary import summary_rows

    rows = summary_rows([one.label for one in subjects], sections)
    heads = list(dict.fromkeys(head for row in rows.values() for head in row))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("network", overflow="fold")
    for head in heads:
        table.add_column(head, justify="right")
    for label, row in rows.items():
        table.add_row(label, *(row.get(head, "-") for head in heads))
    return table
