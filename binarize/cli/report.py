"""`binarize report`: a trained network in one HTML file."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from binarize.cli.examples import examples
from binarize.cli.options import best_option, chosen_file, float_model, model_option, out_option
from binarize.cli.output import progress, progress_bar, say, size, tell
from binarize.cli.speed import importing
from binarize.cli.targets import check_output
from binarize.errors import ConfigError

if TYPE_CHECKING:
    from binarize.data.samples import SampleDataset
    from binarize.report import Insight, Subject
    from binarize.report.panels import Panels

_AGAINST = ("eager", "channels_last")


@click.command(
    epilog=examples("""
        # a run, with its speed
        binarize report runs/tiny-bidense --bench --out report.html
        # a network of the zoo, on its data set
        binarize report zoo:camvid-bidense --data CamVid
    """)
)
@click.argument("run", type=click.Path(path_type=Path))
@out_option("File.", default=Path("report.html"), show_default=True)
@click.option("--data", "root", type=click.Path(path_type=Path), help="Folder of the data set.")
@click.option("--split", help="Part of the data set.  [default: the recipe's test]")
@click.option(
    "--images", default=6, show_default=True, type=click.IntRange(0, 50), help="Predictions to show."
)
@click.option(
    "--packed", type=click.Path(path_type=Path, dir_okay=False), help="Its packed file, for the size."
)
@click.option("--bench", "measure", is_flag=True, help="Also time it, packed, against the float network.")
@click.option("--inspect/--no-inspect", default=True, show_default=True, help="Look inside the network, too.")
@best_option
@model_option
@click.option("--force", is_flag=True, help="Replace a file that exists.")
def report(
    run: Path,
    out: Path,
    root: Path | None,
    split: str | None,
    images: int,
    packed: Path | None,
    measure: bool,
    inspect: bool,
    best: bool,
    custom: str | None,
    force: bool,
) -> None:
    """Write an HTML file about a trained network.

    RUN is a run's folder, a file that `train` or `deploy` wrote, or zoo:NAME. The HTML file opens from disk
    and loads nothing: plan, costs in both conventions, curves, figures, predictions beside truths. Without
    the data set (--data, or BINARIZE_DATA) it has no predictions, and says so.
    """
    check_output(out, force=force, ending=".html")
    with importing():
        from binarize.files import write_bytes
        from binarize.report import Extras, build, read
        from binarize.report.subject import find_data, measured
        from binarize.runtime import keep_memory

    keep_memory()
    with progress(f"reading {run}"):
        subject = read(chosen_file(run, best), float_model(custom))
        packed_bytes = None if packed is None else _packed_size(packed, subject)
        data, subject = find_data(subject, root, split)
    total = 0 if data is None else len(data)
    with _watched("measuring", total) as done:
        subject = measured(subject, data, split, done, own=root is None)
    panels = _panels(subject, data, images)
    insights: list[Insight] = []
    remarks: list[str] = []
    if inspect and data is not None:
        insights, remarks = _insights(subject, root, split)
    speed = _speed(subject) if measure else None
    page = build(
        subject,
        Extras(
            panels=panels, insights=insights, packed_bytes=packed_bytes, speed=speed, remarks=tuple(remarks)
        ),
    )
    write_bytes(out, page.encode())
    for text in (*subject.remarks, *remarks):
        tell(f"- {text}")
    say(f"written  {out} ({size(len(page.encode()))})")


def _packed_size(packed: Path, subject: Subject) -> int:
    """Bytes of the packed file that the user names."""
    from binarize.files import PackedHeader, container, read_header
    from binarize.files.zoo import locate
    from binarize.training.metadata import read_recipe

    file = locate(packed)
    if not file.is_file():
        raise ConfigError(f"--packed {packed}: no such file; expected one that `binarize deploy` wrote.")
    if not isinstance(read_header(file), PackedHeader):
        raise ConfigError(f"--packed {packed}: not a packed file; expected one that `binarize deploy` wrote.")
    own = read_recipe(container.read_metadata(file), file)
    if (own.network, own.method) != (subject.recipe.network, subject.recipe.method):
        raise ConfigError(f"--packed {packed}: holds another network or method than {subject.name}.")
    return file.stat().st_size


def _panels(subject: Subject, data: SampleDataset | None, images: int) -> Panels | None:
    from binarize.report.panels import make_panels

    if data is None or not images:
        return None
    with _watched("predicting", min(images, len(data))) as done:
        return make_panels(subject, data, images, done)


def _insights(subject: Subject, root: Path | None, split: str | None) -> tuple[list[Insight], list[str]]:
    from binarize.report.insights import Insight, insights

    found, skipped = [], []
    for one in insights(subject, root, split, _IMAGES, _watched):
        if isinstance(one, Insight):
            found.append(one)
        else:
            skipped.append(f"Not inspected: {one}.")
    return found, skipped


_IMAGES = 32  # that the analyses look at


def _speed(subject: Subject) -> dict[str, Any]:
    """What `bench --json` prints of the network, packed, and its float network, on the size of training."""
    import torch

    from binarize import bench, runtime
    from binarize.bench.random_images import random_images
    from binarize.cli.speed import threads
    from binarize.training.build import network

    recipe = subject.recipe
    if recipe.method is None:
        raise ConfigError(
            f"--bench: {subject.name} is a float network; there is no packed one to compare with."
        )
    with progress("timing"), threads(1):
        bare = recipe.model_copy(update={"method": None})
        plain = network(bare, subject.truth, weights=False).eval()
        model = subject.model.to(torch.device("cpu"))
        packed = (
            runtime.configure(model, threads=1) if subject.is_packed else runtime.deploy(model, threads=1)
        )
        x = random_images((1, 3, *recipe.data.augmentation.size), 0)
        found = bench.bench(bench.variants(packed, plain, x, _AGAINST), x.shape, rounds=5, memory_kept=True)
    return {**found.as_dict(), "advice": bench.advice(found, packed)}


@contextlib.contextmanager
def _watched(what: str, total: int) -> Iterator[Callable[[int], None]]:
    with progress_bar("{task.description}", counts=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)
