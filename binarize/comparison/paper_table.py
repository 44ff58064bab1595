"""Tables 1 to 4 of the BiDense paper beside what the toolkit counts and what runs reach."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from binarize.comparison.paper import DATA, PaperRow, PaperTable
from binarize.comparison.paper_costs import count_rows
from binarize.comparison.published import is_of_row
from binarize.comparison.runs import KnownRun
from binarize.comparison.table import label
from binarize.training.figures import headline

COSTS = {"params_k": "Params K", "ops_g": "OPs G"}
FIGURES = {
    "pixel_accuracy": "pixAcc %",
    "miou": "mIoU %",
    "delta1": "delta1",
    "delta2": "delta2",
    "delta3": "delta3",
    "abs_rel": "AbsRel",
    "rmse": "RMSE m",
    "log10": "log10",
    "rmse_log": "RMSE log",
}
SOURCES = ("printed", "paper", "honest")
"""Columns of each cost: as printed, ours by the paper's counting, ours by the honest one."""

_CONVENTIONS = (
    "paper: counted as the printed tables do: buffers are parameters too, 2 OPs per multiply-accumulate, "
    "groups ignored, elementwise work included, the head at the image's resolution left out "
    "(binarize.accounting.paper). honest: each parameter once, all multiply-accumulates and nothing else "
    "(binarize.accounting.honest). Both: binary / 32 + float for Params, binary / 64 + float for OPs."
)
_SLIPS = (
    "The paper's counting repeats slips of the authors' counter (binarize.accounting.paper_slips): at "
    "480x480 fusion is counted as a smaller convolution, -7,166 M OPs in float rows, -112 to -137 M in "
    "binary ones; pyramid pooling at too high a resolution, +249 M and +4 to +8 M; and the norms behind the "
    "pointwise layers are missing in the four methods that BiDense is compared with, -98 M."
)
_ROUNDING = {"params_k": 0, "ops_g": 2}


def as_dict(
    table: PaperTable, runs: Sequence[KnownRun] = (), report: Callable[[int, int, str], None] | None = None
) -> dict[str, Any]:
    """The table's content, for JSON.

    Args:
        table: of the paper.
        runs: that may fill its accuracies; those of other networks are listed in `other_runs`.
        report: called with the number of rows done, of all, and the label of the next row.
    """
    rows: list[dict[str, Any]] = []
    counted = count_rows(table)
    for done, row in enumerate(table.rows):
        if report is not None:
            report(done, len(table.rows), row.label)
        rows.append(_row(table, row, next(counted)[1], runs))
    first = DATA[table.data[0]]
    used = {place for row in rows for figures in row["runs"].values() for place in figures["places"]}
    return {
        "table": table.number,
        "title": table.title,
        "counted_at": list(first.size),
        "data": list(table.data),
        "rows": rows,
        "other_runs": [_other(run) for run in _others(table, runs) if run.place not in used],
        "not_measured": [
            {"place": run.place, "reason": run.source}
            for run in runs
            if run.recipe.data.name in table.data and not run.figures
        ],
        "remarks": list(_remarks(table)),
    }


def _row(
    table: PaperTable, row: PaperRow, costs: dict[str, dict[str, float]], runs: Sequence[KnownRun]
) -> dict[str, Any]:
    printed = {"params_k": row.params_k, "ops_g": row.ops_g}
    differs = any(
        value is not None and round(costs["paper"][name], _ROUNDING[name]) != value
        for name, value in printed.items()
    )
    found: dict[str, Any] = {}
    for data in table.data:
        own = [run for run in runs if run.figures and _fits(run, row, data)]
        names = (
            [name for name in FIGURES if all(run.figures.get(name) is not None for run in own)] if own else []
        )
        found[data] = {
            "places": [run.place for run in own],
            "seeds": [run.recipe.training.seed for run in own],
            "sources": list(dict.fromkeys(run.source for run in own)),
            "figures": {name: _spread([run.figures[name] for run in own]) for name in names},
        }
    note = row.note
    if differs and not note:
        note = "The toolkit's count by the paper's rules is not as printed; no reason is known."
    return {
        "label": row.label,
        "bits": row.bits,
        "network": f"{row.network} on {row.encoder}",
        "method": row.method,
        "options": dict(row.options),
        "pretrained": row.pretrained,
        "costs": {
            name: {"printed": printed[name], **{kind: costs[kind][name] for kind in SOURCES[1:]}}
            for name in COSTS
        },
        "printed": {data: dict(row.figures.get(data, {})) for data in table.data},
        "runs": found,
        "counted_as_printed": None if row.params_k is None else not differs,
        "note": note,
    }


def _fits(run: KnownRun, row: PaperRow, data: str) -> bool:
    return run.recipe.data.name == data and is_of_row(run.recipe, row)


def _spread(values: Sequence[float]) -> dict[str, Any]:
    sd = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "sd": sd, "values": list(values)}


def _others(table: PaperTable, runs: Sequence[KnownRun]) -> Iterator[KnownRun]:
    """Runs on the table's data, or a part of it (`nyuv2-397`)."""
    for run in runs:
        name = run.recipe.data.name
        if run.figures and any(name == data or name.startswith(f"{data}-") for data in table.data):
            yield run


def _other(run: KnownRun) -> dict[str, Any]:
    network = run.recipe.network
    options = "".join(f", {key}={value}" for key, value in network.options.items())
    return {
        "place": run.place,
        "data": run.recipe.data.name,
        "network": f"{network.title}{options}",
        "method": label(run.recipe),
        "size": list(run.recipe.data.augmentation.size),
        "figures": {name: run.figures[name] for name in FIGURES if name in run.figures},
        "headline": list(headline(run.figures)),
    }


def _remarks(table: PaperTable) -> Iterator[str]:
    yield _CONVENTIONS
    if any(row.params_k is not None for row in table.rows):
        yield _SLIPS
    else:
        height, width = DATA[table.data[0]].size
        yield f"The paper prints no costs here; ours are at {height}x{width}, as {DATA[table.data[0]].title}."
    for name in table.data:
        if DATA[name].remark:
            yield DATA[name].remark
    if "kitti" in table.data:
        yield "RMSE log: printed under log10, but of the size of RMSE log."


def footnotes(document: dict[str, Any]) -> dict[str, list[str]]:
    """Notes on rows, each once, with the labels of the rows that have it."""
    found: dict[str, list[str]] = {}
    for row in document["rows"]:
        if row["note"]:
            found.setdefault(row["note"], []).append(row["label"])
    return found


def figure_names(document: dict[str, Any], data: str) -> list[str]:
    """Names of the figures that the table prints of a data set, in order."""
    printed = {name for row in document["rows"] for name in row["printed"][data]}
    return [name for name in FIGURES if name in printed]


def cost(name: str, value: float | None) -> str:
    """A cost as printed: thousands without, 1e9 with two digits; `-` where there is none."""
    return "-" if value is None else f"{value:,.{_ROUNDING[name]}f}"


def figure(name: str, value: float | None, sd: float | None = None) -> str:
    """A figure as printed, with its standard deviation over seeds; `-` where there is none."""
    if value is None:
        return "-"
    percent = name in ("pixel_accuracy", "miou")
    scale, digits = (100.0, 2) if percent else (1.0, 3)
    text = f"{scale * value:.{digits}f}"
    return text if sd is None else f"{text} ± {scale * sd:.{digits}f}"


def ours(row: dict[str, Any], data: str, name: str) -> str:
    """What the runs of a row reach, as `figure`."""
    found = row["runs"][data]["figures"].get(name)
    return "-" if found is None else figure(name, found["mean"], found["sd"])


def markdown(document: dict[str, Any]) -> str:
    """The document of `as_dict` in Markdown: printed and ours side by side, three columns for each cost."""
    marks = {note: str(i) for i, note in enumerate(footnotes(document), start=1)}
    height, width = document["counted_at"]
    head = ["network", "bits"]
    head += [f"{title}, {source}" for title in COSTS.values() for source in SOURCES]
    several = len(document["data"]) > 1
    places = [(data, name) for data in document["data"] for name in figure_names(document, data)]
    for data, name in places:
        title = f"{DATA[data].title} {FIGURES[name]}" if several else FIGURES[name]
        head += [f"{title}, printed", f"{title}, ours"]
    lines = [_line(head), _line(["---", *["---:"] * (len(head) - 1)])]
    for row in document["rows"]:
        mark = f" [{marks[row['note']]}]" if row["note"] else ""
        cells = [f"{row['label']}{mark}", str(row["bits"])]
        cells += [cost(name, row["costs"][name][source]) for name in COSTS for source in SOURCES]
        for data, name in places:
            cells += [figure(name, row["printed"][data].get(name)), ours(row, data, name)]
        lines.append(_line(cells))
    text = [f"Table {document['table']}. {document['title']}; costs at {height}x{width}.", "", *lines, ""]
    text += [f"[{marks[note]}] {note}" for note in marks]
    text += [part for remark in document["remarks"] for part in ("", remark)]
    if document["other_runs"]:
        text += [
            "",
            "Other runs, of other networks or parts of the data:",
            "",
            *map(other_line, document["other_runs"]),
        ]
    return "\n".join(text) + "\n"


def other_line(run: dict[str, Any]) -> str:
    """An entry of `other_runs` as one line."""
    height, width = run["size"]
    names = [
        name for name in ("pixel_accuracy", "miou", "delta1", "abs_rel", "rmse") if name in run["figures"]
    ]
    figures = ", ".join(f"{FIGURES[name]} {figure(name, run['figures'][name])}" for name in names)
    where = f"{run['data']} at {height}x{width}"
    return f"- {run['place']}: {run['network']}, {run['method']}; {where}: {figures}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
