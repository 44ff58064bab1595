"""From a network and its pictures to one HTML file of limited size."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jinja2
import yaml

from binarize import __version__
from binarize.accounting.report import short
from binarize.comparison.table import label
from binarize.graph.plan_table import summary_line, table_rows
from binarize.model_info import plan_of
from binarize.report.insights import Insight
from binarize.report.panels import Panels
from binarize.report.plots import curves
from binarize.report.subject import Subject
from binarize.tables import better
from binarize.training.figures import figures_in

LIMIT = 5_000_000
"""Bytes of a report, at most: it is sent around."""

_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "svg": "image/svg+xml"}


@dataclass(frozen=True, kw_only=True)
class Extras:
    """What a report shows beside what its subject holds.

    Attributes:
        panels: predictions; None if there are none.
        insights: pictures of what happens inside.
        packed_bytes: of the packed file that the user names; None if the size is that of the one that
            `deploy` would write.
        speed: what `binarize bench --json` prints; None if it was not measured.
        remarks: sentences on what is missing, and why.
    """

    panels: Panels | None = None
    insights: Sequence[Insight] = ()
    packed_bytes: int | None = None
    speed: Mapping[str, Any] | None = None
    remarks: tuple[str, ...] = ()


def build(subject: Subject, extras: Extras | None = None, *, limit: int = LIMIT) -> str:
    """The report as HTML, in one text that loads nothing from elsewhere.

    Args:
        subject: the network.
        extras: see `Extras`.
        limit: bytes; above it pictures are left out, from the last ones on, and the report says so.
    """
    extras = extras or Extras()
    left_out = 0
    while True:
        page = _rendered(subject, extras, left_out, limit)
        smaller = _with_one_picture_less(extras)
        if len(page.encode()) <= limit or smaller is None:
            return page
        extras, left_out = smaller, left_out + 1


def _with_one_picture_less(extras: Extras) -> Extras | None:
    panels = extras.panels.panels if extras.panels is not None else ()
    if len(panels) > 1 and extras.panels is not None:
        return replace(extras, panels=replace(extras.panels, panels=panels[:-1]))
    if extras.insights:
        return replace(extras, insights=extras.insights[:-1])
    return replace(extras, panels=None) if panels else None


def _rendered(subject: Subject, extras: Extras, left_out: int, limit: int) -> str:
    recipe, plan = subject.recipe, plan_of(subject.model)
    remarks = [*subject.remarks, *extras.remarks]
    if left_out:
        remarks.append(
            f"{left_out} pictures were left out: the file would be larger than {limit / 1e6:g} MB."
        )
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("binarize.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"uri": _uri, "short": short, "size": _size, "number": _number}
    return environment.get_template("report.html").render(
        title=f"{recipe.network.title}, {label(recipe)}",
        name=subject.name,
        recipe=recipe,
        recipe_text=yaml.safe_dump(
            recipe.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True
        ),
        is_float=recipe.method is None,
        facts=_facts(subject, extras),
        plan_line=summary_line(recipe.method.name if recipe.method else "", plan.rows, plan.attentions)
        if plan is not None
        else "",
        plan_rows=table_rows(plan.rows, plan.attentions) if plan is not None else [],
        plan_notes=[str(note) for note in plan.notes] if plan is not None else [],
        costs=subject.costs,
        packed_bytes=_packed_bytes(subject, extras),
        curves=curves(subject.history),
        epochs=len(subject.history),
        split=subject.split,
        figures=_figures(subject),
        floors=list(subject.floors),
        classes=_classes(subject),
        of_classes="IoU" if "miou" in subject.figures else "accuracy",
        panels=extras.panels,
        insights=extras.insights,
        speed=extras.speed,
        remarks=remarks,
        version=__version__,
    )


def _facts(subject: Subject, extras: Extras) -> list[tuple[str, str]]:
    """The numbers that come first."""
    found = []
    if subject.figures:
        known = figures_in(subject.figures)
        value = subject.figures[known.main]
        found.append((f"{known.title}{better(known.main)}", "-" if value is None else f"{value:.3f}"))
    if (packed := _packed_bytes(subject, extras)) is not None:
        found.append(("float file" if subject.recipe.method is None else "packed file", _size(packed)))
    if honest := subject.costs.get("honest"):
        found.append(("weights in 32 bits", _size(honest["float_bytes"])))
        if subject.recipe.method is not None:
            found.append(("of the work in 1 bit", f"{100 * honest['binary_share']:.1f} %"))
    if extras.speed is not None:
        times = {row["name"]: row["median_ms"] for row in extras.speed["variants"]}
        found += [(f"{name}, one image", f"{ms:.1f} ms") for name, ms in list(times.items())[:2]]
    return found


def _packed_bytes(subject: Subject, extras: Extras) -> int | None:
    if extras.packed_bytes is not None:
        return extras.packed_bytes
    honest = subject.costs.get("honest")
    if honest is None:
        return None
    return int(honest.get("file_bytes") or honest["packed_bytes"])


def _figures(subject: Subject) -> list[tuple[str, str, list[str]]]:
    """Name with its arrow, value, and those of the predictions that do not depend on the image."""
    found: list[tuple[str, str, list[str]]] = []
    if not subject.figures:
        return found
    titles = {name: head.removesuffix(" %") for name, head in figures_in(subject.figures).columns.items()}
    for name, value in subject.figures.items():
        if isinstance(value, (int, float)) and name not in ("pixels", "images"):
            floors = [_number(floor.get(name)) for floor in subject.floors.values()]
            found.append((f"{titles.get(name, name)}{better(name)}", _number(value), floors))
    return found


def _classes(subject: Subject) -> list[tuple[str, float | None]]:
    """Figures of single classes, of those in which they are measured."""
    for value in subject.figures.values():
        numbers = value.values() if isinstance(value, Mapping) else ()
        if numbers and all(n is None or isinstance(n, float) for n in numbers):
            return list(value.items())
    return []


def _uri(data: bytes, form: str) -> str:
    return f"data:{_TYPES[form]};base64,{base64.b64encode(data).decode()}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}" if abs(value) >= 1 else f"{value:.4f}"


def _size(count: float) -> str:
    for power, unit in ((9, "GB"), (6, "MB"), (3, "kB")):
        if count >= 10**power:
            return f"{count / 10**power:.2f} {unit}"
    return f"{count:.0f} bytes"
