"""Results as a table like Tables 1 and 3 of BiDense (arXiv 2411.10346), in Markdown and as plain values."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from binarize.comparison import paired, sweep
from binarize.comparison.collect import Result
from binarize.comparison.paired import paired_tests
from binarize.comparison.published import published, remark
from binarize.errors import ConfigError
from binarize.recipes import TrainingRecipe
from binarize.tables import better
from binarize.training.figures import figures_in, task_in
from binarize.training.folder import MODEL

_OWN = ("about", "method", "training.seed", "training.lr", "training.start_from", "data.root", "data.workers")
_OWN += ("training.save_every", "training.evaluate_every", "network.pretrained")
"""Settings that may differ between rows of a fair table: the rate is tuned for each."""

_APART = 2  # settings that a label names at most


def as_dict(results: Sequence[Result], tried: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """The table's content, for JSON.

    Args:
        results: of one data set and split. Runs that differ only in their seed make one row.
        tried: the report of `sweep.chosen`, if the runs were chosen from more.

    Raises:
        ConfigError: none at all, of several data sets or splits, or one recipe and seed twice.
    """
    if not results:
        raise ConfigError("compare: no runs.")
    kinds = {(r.recipe.data.name, r.split, task_in(r.figures)) for r in results}
    if len(kinds) > 1:
        raise ConfigError(
            f"compare: runs of different data: {', '.join(' '.join(k) for k in sorted(kinds))}; "
            "they cannot be compared in one table."
        )
    rows: dict[str, list[Result]] = {}
    for result in results:
        rows.setdefault(_key(result.recipe), []).append(result)
    for group in rows.values():
        seeds = [r.recipe.training.seed for r in group]
        if len(set(seeds)) < len(seeds):
            twice = ", ".join(str(r.path) for r in group)
            raise ConfigError(f"compare: several runs of one recipe and seed: {twice}; name one of them.")
    first = results[0].recipe
    firsts = [group[0] for group in rows.values()]
    names = labels([r.recipe for r in firsts], [r.path for r in firsts])
    made = [_row(group, name) for group, name in zip(rows.values(), names, strict=True)]
    return {
        "data": first.data.name,
        "split": results[0].split,
        "network": {**first.network.model_dump(mode="json"), "title": first.network.title},
        "counted_at": list(first.data.augmentation.size),
        "epochs": first.training.epochs,
        "batch": first.training.batch,
        "differences": sorted({d for r in results for d in _differences(first, r.recipe)}),
        **remark(first),
        "rows": made,
        "tests": paired_tests(made),
        **({"sweep": list(tried)} if tried else {}),
    }


def markdown(table: dict[str, Any]) -> str:
    """The table of `as_dict` in Markdown.

    Params and OPs of the columns `paper` are in the paper's own counting (`binarize.accounting.paper`); the
    others are the costs of the network itself. Figures are means, with the standard deviation over seeds if
    there are several; those in brackets are printed in the paper.
    """
    rows = table["rows"]
    names = columns(table)
    head = ["network", "1-bit params", "32-bit params", "packed", "1-bit MACs", "32-bit MACs"]
    head += ["Params, paper", "OPs, paper", *names.values(), "lr", "seeds", "training"]
    lines = [_line(head), _line(["---", *["---:"] * (len(head) - 1)])]
    for row in rows:
        honest, paper = row["costs"]["honest"], row["costs"]["paper"]
        cells = [
            row["label"],
            _short(honest["binary_params"]),
            _short(honest["float_params"]),
            f"{honest['packed_bytes'] / 1e6:.2f} MB",
            _short(honest["binary_macs"]),
            _short(honest["float_macs"]),
            f"{paper['params'] / 1e3:,.0f} K",
            f"{paper['ops'] / 1e9:.3f} G",
            *(figure(name, row) for name in names),
            f"{row['lr']:g}",
            str(len(row["seeds"])),
            f"{row['seconds'] / 60:.0f} min",
        ]
        lines.append(_line(cells))
    text = [title(table), "", *lines]
    text += [part for remark in remarks(table) for part in ("", remark)]
    if any(len(test["seeds"]) > 1 for test in table["tests"]):
        text += ["", paired.markdown(table["tests"]).rstrip()]
    if "sweep" in table:
        text += ["", sweep.markdown(table["sweep"]).rstrip()]
    return "\n".join(text) + "\n"


def title(table: dict[str, Any]) -> str:
    """What was compared, in one sentence."""
    height, width = table["counted_at"]
    network = table["network"]
    options = "".join(f", {k}={v}" for k, v in network["options"].items())
    return (
        f"{table['data']} {table['split']}: {network['title']}{options}, "
        f"{table['epochs']} epochs of batches of {table['batch']}, costs at {height}x{width}."
    )


def remarks(table: dict[str, Any]) -> list[str]:
    """Remarks on the table's figures, a sentence or two each."""
    rows = table["rows"]
    text: list[str] = []
    unfinished = [row["label"] for row in rows if not row["complete"]]
    if unfinished:
        text += [f"Not trained to the end: {', '.join(unfinished)}."]
    if any(len(row["seeds"]) > 1 for row in rows):
        text += ["Mean and sample standard deviation over seeds."]
    if any(row["published"] for row in rows):
        text += ["In brackets: the paper's figures."]
    if "sweep" in table:
        text += list(_about_sweep(table))
    if "remark" in table:
        text += [table["remark"]]
    if table["differences"]:
        text += [f"Not the same in all rows: {'; '.join(table['differences'])}."]
    if any(row["costs"]["honest"]["uncounted"] for row in rows):
        text += ["Costs are lower bounds: something could not be counted; see `binarize summary`."]
    return text


def _about_sweep(table: dict[str, Any]) -> Iterator[str]:
    tried = table["sweep"]
    each = len({tuple(row["values"]) for row in tried}) * len(tried[0]["figures"])
    yield f"Each row: the best on val of {each} trainings per recipe, by {tried[0]['figure']}."
    if edges := list(sweep.untuned(tried)):
        yield f"The best value is at the end of those tried, so others may be better: {', '.join(edges)}."
    if len(tried[0]["figures"]) < 2:
        yield "Paired test between rows: n/a with one seed."


def columns(table: dict[str, Any]) -> dict[str, str]:
    """Names of the figures that the table shows, and what to call them: with an arrow to the better side."""
    known = figures_in(table["rows"][0]["figures"]).columns
    return {name: f"{head}{better(name)}" for name, head in known.items()}


def figure(name: str, row: dict[str, Any]) -> str:
    """A row's figure, with its spread and what the paper prints."""
    if name not in row["figures"]:
        return "-"
    percent = "%" in figures_in(row["figures"]).columns[name]
    scale, digits = (100.0, 2) if percent else (1.0, 3)
    found = row["figures"][name]
    text = f"{scale * found['mean']:.{digits}f}"
    if found["sd"] is not None:
        text += f" ± {scale * found['sd']:.{digits}f}"
    printed = row["published"].get(name)
    return text if printed is None else f"{text} ({scale * printed:.{digits}f})"


def label(recipe: TrainingRecipe) -> str:
    """The name of a row: `float`, `bidense`, `bidense (granularity=layer)`."""
    if recipe.method is None:
        return "float, pretrained" if recipe.network.pretrained else "float"
    parts = [f"{k}={v}" for k, v in recipe.method.options.items() if k != "form"]
    options = ", ".join(parts + [f"{len(recipe.stages)} stages"] * bool(recipe.stages))
    return f"{recipe.method.name} ({options})" if options else recipe.method.name


def labels(recipes: Sequence[TrainingRecipe], paths: Sequence[Path]) -> list[str]:
    """Unique names of rows: those with the same `label` get the settings in which their recipes differ.

    `bidense (lr=0.0015)`; the name of the run where that would be long or empty.

    Args:
        recipes: one for each row.
        paths: folder, or file, of its first run.
    """
    found = [label(recipe) for recipe in recipes]
    for name in {n for n in found if found.count(n) > 1}:
        group = [i for i, n in enumerate(found) if n == name]
        parts = _apart([recipes[i] for i in group], [paths[i] for i in group])
        for i, part in zip(group, parts, strict=True):
            found[i] = f"{name[:-1]}, {part})" if name.endswith(")") else f"{name} ({part})"
    return found


def _apart(recipes: Sequence[TrainingRecipe], paths: Sequence[Path]) -> list[str]:
    flat = [dict(_flat(recipe.model_dump(mode="json"))) for recipe in recipes]
    names = sorted({n for f in flat for n in f if len({json.dumps(g.get(n)) for g in flat}) > 1} - {"about"})
    for chosen in ([n for n in names if n != "training.seed"], names):
        texts = [", ".join(f"{n.rpartition('.')[2]}={f.get(n)}" for n in chosen) for f in flat]
        if len(chosen) <= _APART and len(set(texts)) == len(texts):
            return texts
    runs = [p.parent.name if p.name == MODEL and p.parent.name else p.name for p in paths]
    return runs if len(set(runs)) == len(runs) else [str(p) for p in paths]


def _row(group: list[Result], name: str) -> dict[str, Any]:
    recipe = group[0].recipe
    numbers = [k for k, v in group[0].figures.items() if isinstance(v, float)]
    return {
        "label": name,
        "method": recipe.method.model_dump(mode="json") if recipe.method else None,
        "lr": recipe.training.lr,
        "seeds": [r.recipe.training.seed for r in group],
        "runs": [r.path.name for r in group],
        "complete": all(r.complete for r in group),
        "seconds": statistics.fmean(r.seconds for r in group),
        "figures": {name: _spread([r.figures[name] for r in group]) for name in numbers},
        "costs": group[0].costs,
        "published": published(recipe),
    }


def _spread(values: list[float]) -> dict[str, Any]:
    sd = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "sd": sd, "values": values}


def _key(recipe: TrainingRecipe) -> str:
    plain = recipe.model_dump(mode="json")
    plain["training"].pop("seed")
    for name in ("root", "workers"):
        plain["data"].pop(name)
    return json.dumps(plain, sort_keys=True)


def _differences(first: TrainingRecipe, other: TrainingRecipe) -> Iterator[str]:
    found = differences(first.model_dump(mode="json"), other.model_dump(mode="json"))
    for name, (a, b) in sorted(found.items()):
        if not name.startswith(_OWN):
            yield f"{name} ({a}, {b})"


def differences(a: dict[str, Any], b: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings in which two recipes, as plain values, differ, by dotted name."""
    flat_a, flat_b = dict(_flat(a)), dict(_flat(b))
    names = flat_a.keys() | flat_b.keys()
    return {n: (flat_a.get(n), flat_b.get(n)) for n in names if flat_a.get(n) != flat_b.get(n)}


def _flat(values: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _short(number: float) -> str:
    for power, unit in ((9, "G"), (6, "M"), (3, "K")):
        if number >= 10**power:
            return f"{number / 10**power:.3g} {unit}"
    return f"{number:.0f}"
