"""`binarize compare`: runs in one table, trained first if they are named as a set of recipes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from binarize.cli.examples import examples
from binarize.cli.options import device_option, float_model, model_option, out_option
from binarize.cli.output import console, print_json, progress_bar, say, size, tell
from binarize.cli.recipe_set import names_of, seeds_of, train_trials, warn_of_seeds
from binarize.cli.speed import importing
from binarize.cli.targets import beside, refuse_existing
from binarize.errors import ConfigError
from binarize.tables import BINARY, FLOAT

if TYPE_CHECKING:
    from rich.table import Table
    from torch import nn

    from binarize.comparison import Result

# if the terminal is narrow, the first one is left out first
_LEAST = ("silog", "delta3", "delta2", "log10", "training", "seeds", "float MACs", "rmse", "packed")

_OTHERS = ("packed", "float MACs", "seeds", "training")
"""Columns beside the names and the figures."""


@click.command(
    epilog=examples(r"""
        # two runs in one table
        binarize compare runs/tiny-float runs/tiny-bidense
        # train all recipes of a set with two seeds, then compare
        binarize compare --recipe-set camvid --seeds 0,1 --data CamVid --out camvid
        # the same, with a learning rate for each recipe, chosen on val
        binarize compare --recipe-set camvid --sweep training.lr=1.5e-3,4.5e-3 \
            --seeds 2 --data CamVid
    """)
)
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@click.option("--recipe-set", metavar="NAME", help="Train all untrained recipes of a set (camvid).")
@click.option(
    "--seeds",
    default="0",
    show_default=True,
    metavar="N|N,N...",
    help="How many seeds the set's runs have (3: 0, 1, 2), or which (0,3; one alone: 3,). 0 is seed 0.",
)
@click.option(
    "--sweep",
    "sweeps",
    multiple=True,
    metavar="NAME=V,V...",
    help="Train each recipe of the set with each of these values; the best on val stays.",
)
@click.option(
    "--jobs",
    "-j",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Runs of the set at a time, each in a process of its own.",
)
@click.option(
    "--runs",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs"),
    show_default=True,
    help="Folder of the set's runs.",
)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Value for the set's recipes.")
@click.option("--data", "root", type=click.Path(path_type=Path), help="Folder of the data set.")
@click.option("--split", help="Part of the data set.  [default: the recipe's test]")
@model_option
@out_option("Also write OUT.md and OUT.json.")
@click.option("--force", is_flag=True, help="Replace files that exist.")
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def compare(
    runs: tuple[Path, ...],
    recipe_set: str | None,
    seeds: str,
    sweeps: tuple[str, ...],
    jobs: int,
    folder: Path,
    settings: tuple[str, ...],
    root: Path | None,
    split: str | None,
    custom: str | None,
    out: Path | None,
    force: bool,
    device: str | None,
    as_json: bool,
) -> None:
    """Compare trained networks in one table, as in the BiDense paper.

    RUNS are folders that `binarize train` wrote. Runs that differ only in their seed make one row. With
    --recipe-set, all recipes of that set are trained first, one after the other; a second call continues
    where the first one stopped. With --sweep, every recipe gets the same number of trainings, and only those
    with its best values are measured on the test split.
    """
    if not runs and recipe_set is None:
        raise ConfigError("compare: give folders of runs, or --recipe-set with the name of a set of recipes.")
    if (settings or sweeps) and recipe_set is None:
        raise ConfigError("compare: --set and --sweep are for a --recipe-set; runs are as they are.")
    numbers = seeds_of(seeds)
    if recipe_set is not None and not sweeps:
        warn_of_seeds(seeds)
    with importing():
        from binarize import comparison
        from binarize.comparison import sweep
        from binarize.files import write_bytes
        from binarize.runtime import keep_memory
        from binarize.training.environment import on_device

    keep_memory()
    targets = beside(out, "md", "json")
    refuse_existing(targets, force=force)
    found = list(dict.fromkeys(run.resolve() for run in runs))
    tried: list[dict[str, Any]] = []
    with on_device(device):
        if recipe_set is not None:
            trials = sweep.trials(names_of(recipe_set), sweeps, numbers, folder)
            train_trials(trials, settings, root, jobs, device)
            kept, tried = sweep.chosen(trials) if sweeps else (trials, [])
            found = list(dict.fromkeys([*found, *(trial.folder.resolve() for trial in kept)]))
        results = _evaluated(found, root, split, float_model(custom))
    table = comparison.as_dict(results, tried)
    text = comparison.markdown(table)
    if targets:
        import json

        for target, content in zip(targets, (text, json.dumps(table, indent=2) + "\n"), strict=True):
            write_bytes(target, content.encode())
    if as_json:
        print_json(table)
    else:
        _print(table)
        if targets:
            say(f"written  {', '.join(map(str, targets))}")


def _evaluated(
    runs: Sequence[Path], root: Path | None, split: str | None, model: nn.Module | None
) -> list[Result]:
    from binarize import comparison

    results = []
    with progress_bar("{task.description}") as bar:
        task = bar.add_task("")
        for run in runs:
            bar.reset(task, description=f"evaluating {run.name}")
            result = comparison.collect(
                run,
                root=root,
                split=split,
                model=model,
                report=lambda done, total: bar.update(task, completed=done, total=total),
            )
            results.append(result)
    return results


def _print(table: dict[str, Any]) -> None:
    """As many columns as fit on the terminal; the files hold all."""
    from binarize import comparison

    tell(comparison.title(table))
    terminal = console()
    roomy = terminal.options.update(width=10_000)
    left_out: list[str] = []
    for name in ("", *_LEAST):
        left_out += [name] * (name in comparison.columns(table) or name in _OTHERS)
        grid = _grid(table, left_out)
        # the names may take a second line, but no word is broken for a column
        if terminal.measure(grid, options=roomy).maximum - _slack(table) <= terminal.width:
            break
    terminal.print(grid)
    _print_tests(table)
    for remark in comparison.remarks(table):
        tell(remark)
    if left_out:
        heads = [comparison.columns(table).get(name, name) for name in reversed(left_out)]
        tell(f"Left out: {', '.join(heads)}; a wider terminal, --out or --json shows all.")


def _print_tests(table: dict[str, Any]) -> None:
    """The best row against each other one, if there are several seeds."""
    from rich.table import Table

    from binarize.comparison.paired import NOTE, p_text

    if not table["tests"] or all(len(test["seeds"]) < 2 for test in table["tests"]):
        return
    first = table["tests"][0]
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column(f"{first['a']} against", overflow="fold")
    for head in ("seeds", f"difference in {first['figure']}", "p"):
        grid.add_column(head, justify="right", no_wrap=True)
    for test in table["tests"]:
        apart = "-" if test["difference"] is None else f"{test['difference']:+.4f}"
        grid.add_row(test["b"], str(len(test["seeds"])), apart, p_text(test))
    say()
    console().print(grid)
    tell(NOTE)


def _grid(table: dict[str, Any], left_out: Sequence[str]) -> Table:
    from rich.table import Table

    from binarize import comparison

    figures = comparison.columns(table)
    heads = {n: figures.get(n, n) for n in ("packed", "float MACs", *figures, "seeds", "training")}
    heads = {name: head for name, head in heads.items() if name not in left_out}
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column("network", overflow="fold", min_width=_words(table))
    for head in heads.values():
        grid.add_column(head, justify="right", no_wrap=True)
    for row in table["rows"]:
        honest = row["costs"]["honest"]
        share = honest["float_macs"] / (honest["float_macs"] + honest["binary_macs"])
        cells = {
            "packed": size(honest["packed_bytes"]),
            "float MACs": f"{100 * share:.3g} %",
            **{name: comparison.figure(name, row) for name in figures},
            "seeds": str(len(row["seeds"])),
            "training": f"{row['seconds'] / 60:.0f} min",
        }
        style = FLOAT if row["method"] is None else BINARY
        grid.add_row(row["label"], *(cells[name] for name in heads), style=style)
    return grid


def _words(table: dict[str, Any]) -> int:
    """Letters of the longest word of the rows' labels, or of their head."""
    return max(len(word) for row in table["rows"] for word in ("network", *row["label"].split()))


def _slack(table: dict[str, Any]) -> int:
    """How much narrower the labels become with one word per line."""
    return max(len(row["label"]) for row in table["rows"] + [{"label": "network"}]) - _words(table)
