"""A sweep over settings: the same trainings for every recipe, and of each recipe the best on `val`."""

from __future__ import annotations

import itertools
import json
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from binarize.comparison.collect import read_history
from binarize.comparison.paired import main_figure
from binarize.errors import ConfigError
from binarize.option_texts import split
from binarize.tables import UP, better

_EXAMPLE = "training.lr=1e-3,3e-3"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training of a sweep.

    Attributes:
        name: of the recipe.
        values: what is tried, `NAME=VALUE` each; empty without a sweep.
        seed: of the run.
        folder: of the run.
    """

    name: str
    values: tuple[str, ...]
    seed: int
    folder: Path

    @property
    def settings(self) -> tuple[str, ...]:
        """What to set on top of the recipe."""
        return (*self.values, f"training.seed={self.seed}")


def combinations(sweeps: Sequence[str]) -> list[tuple[str, ...]]:
    """All combinations of the values of several `NAME=VALUE,VALUE...`; a single empty one of none.

    Raises:
        ConfigError: another form, a name that comes twice, or a value that does.
    """
    choices: dict[str, list[str]] = {}
    for text in sweeps:
        name, values = split(text, "--sweep", _EXAMPLE)
        found = [part.strip() for part in re.split(r",(?![^\[{(]*[\]})])", values)]  # not inside of brackets
        if not all(found) or len(set(found)) < len(found) or name in choices:
            raise ConfigError(
                f"--sweep {text!r}: expected a setting, once, and different values with commas between: "
                f"{_EXAMPLE}."
            )
        if name == "training.seed":
            raise ConfigError("--sweep training.seed: seeds are not chosen by their results; use --seeds.")
        choices[name] = [f"{name}={value}" for value in found]
    return list(itertools.product(*choices.values()))


def trials(names: Sequence[str], sweeps: Sequence[str], seeds: Sequence[int], folder: Path) -> list[Trial]:
    """All trainings, the same ones for each recipe.

    Args:
        names: of the recipes, `SET/NAME`.
        sweeps: `NAME=VALUE,VALUE...` each.
        seeds: of each combination.
        folder: where the folders of the runs are.

    Raises:
        ConfigError: as `combinations`.
    """
    return [
        Trial(name=name, values=values, seed=seed, folder=folder / f"{name}{_part(values)}-seed{seed}")
        for seed in seeds
        for name in names
        for values in combinations(sweeps)
    ]


def chosen(done: Sequence[Trial]) -> tuple[list[Trial], list[dict[str, Any]]]:
    """The trials of each recipe's best values, and what all values reached on `val` at the end, for JSON.

    Best is the mean over seeds of the main figure: mIoU, AbsRel or top-1; of several that are as good, the
    first one.

    Raises:
        ConfigError: a run that was not evaluated on `val`.
    """
    groups: dict[str, dict[tuple[str, ...], list[Trial]]] = {}
    for trial in done:
        groups.setdefault(trial.name, {}).setdefault(trial.values, []).append(trial)
    kept: list[Trial] = []
    report: list[dict[str, Any]] = []
    for name, group in groups.items():
        rows = [_on_val(name, values, of_values) for values, of_values in group.items()]
        sign = 1 if better(rows[0]["figure"]).endswith(UP) else -1
        best = max(rows, key=lambda row: sign * row["mean"])
        for row in rows:
            row["chosen"] = row is best
        kept += group[tuple(best["values"])]
        report += rows
    return kept, report


def markdown(report: Sequence[dict[str, Any]]) -> str:
    """What each combination reached on `val`, as a table in Markdown."""
    seeds = len(report[0]["figures"])
    what = f"{report[0]['figure']} on val{better(report[0]['figure'])}"
    lines = [f"| recipe | values | {what} | |", "| --- | --- | ---: | --- |"]
    for row in report:
        spread = "" if row["sd"] is None else f" ± {row['sd']:.4f}"
        mark = "chosen" if row["chosen"] else ""
        lines.append(f"| {row['recipe']} | {', '.join(row['values'])} | {row['mean']:.4f}{spread} | {mark} |")
    head = f"Values tried for each recipe, {seeds} seed{'s' * (seeds != 1)} each, at the end of the training:"
    return "\n".join([head, "", *lines]) + "\n"


def _on_val(name: str, values: tuple[str, ...], group: Sequence[Trial]) -> dict[str, Any]:
    figures = []
    key = ""
    for trial in group:
        history = read_history(trial.folder)
        measured = history[-1].get("val") if history else None
        if not measured:
            raise ConfigError(f"{trial.folder}: has no figures on val, by which --sweep chooses (data.val).")
        key = main_figure(measured)
        figures.append(float(measured[key]))
    return {
        "recipe": name,
        "values": list(values),
        "figure": key,
        "figures": figures,
        "mean": statistics.fmean(figures),
        "sd": statistics.stdev(figures) if len(figures) > 1 else None,
    }


def _part(values: Sequence[str]) -> str:
    """The part of a folder's name that says what is tried: `-lr=1e-3`."""
    return "".join(_short(value) for value in values)


def _short(setting: str) -> Any:
    name, _, value = setting.partition("=")
    plain = re.sub(r"[^A-Za-z0-9.+-]+", "_", value)
    return f"-{name.rpartition('.')[2]}={plain}"


def untuned(report: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Sentences about recipes whose best value is the first or the last of those tried, in their order."""
    for name in dict.fromkeys(row["recipe"] for row in report):
        rows = [row for row in report if row["recipe"] == name]
        numbers = [_number(row["values"]) for row in rows]
        if len(rows) < 2 or any(n is None for n in numbers):
            continue
        best = next(n for n, row in zip(numbers, rows, strict=True) if row["chosen"])
        if best in (min(n for n in numbers if n is not None), max(n for n in numbers if n is not None)):
            yield name


def _number(values: Sequence[str]) -> float | None:
    """The value of a sweep over a single number."""
    try:
        return float(json.loads(values[0].partition("=")[2])) if len(values) == 1 else None
    except (ValueError, TypeError):
        return None
