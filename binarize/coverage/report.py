"""Records summed up: by use, method and family, as a JSON document and as a page to read.

Networks of other libraries than timm are few: they have a line each (`report_libraries`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from binarize.coverage.record import Record
from binarize.coverage.report_libraries import libraries_section, sentence, table
from binarize.graph.plan_sentences import Code, Statement

_STATUS = ("pass", "fail", "skip")


def latest(records: Iterable[Record]) -> list[Record]:
    """For each model, use and method only the last record, whatever its versions."""
    return list({record.subject: record for record in records}.values())


def as_document(records: Iterable[Record]) -> dict[str, Any]:
    """Totals, families and the `latest` records, as JSON holds them.

    Args:
        records: of any uses, methods and versions, in the order in which they were made.
    """
    given = _sorted(records)
    return {
        "versions": _versions(given),
        "totals": [
            {"library": library, "use": use, "method": method, **_totals(group)}
            for (library, use, method), group in _groups(given)
        ],
        "families": [
            {"library": library, "use": use, "method": method, "family": family, **_totals(members)}
            for (library, use, method), group in _groups(given)
            for family, members in _families(group)
        ],
        "records": [json.loads(record.dumps()) for record in given],
    }


def as_markdown(records: Iterable[Record], commands: Sequence[str] = ()) -> str:
    """The page `docs/coverage.md`.

    Args:
        records: of any uses, methods and versions, in the order in which they were made; the `latest` count.
        commands: that made them.
    """
    everything = _sorted(records)
    given = [record for record in everything if record.library == "timm"]
    others = [record for record in everything if record.library != "timm"]
    lines = [*_INTRODUCTION, ""]
    if commands:
        lines += [*(f"    {command}" for command in commands), ""]
    for versions in _versions(given):
        lines += [sentence(versions), ""]
    lines += [
        "## Totals",
        "",
        *table(_TOTALS, (_total_row(*key[1:], group) for key, group in _groups(given))),
        "",
    ]
    for (_, use, method), group in _groups(given):
        lines += [f"## Families: {_title(use, method)}", ""]
        rows = (_family_row(family, members) for family, members in _families(group))
        lines += [*table(_FAMILIES, rows), ""]
    lines += _exceptions(given)
    if others:
        lines += libraries_section(others)
    return "\n".join(lines).rstrip() + "\n"


_INTRODUCTION = (
    "# Coverage of timm",
    "",
    "Which networks can be converted, and which of their layers? `binarize coverage` made this page; do not",
    "edit it. Weights are random: a pass means that conversion works, not that training reaches an accuracy.",
    "",
    "Each model was planned at its own image size and converted. Then these were checked, at the smallest",
    "image that the float model takes:",
    "",
    "- forward and backward: each latent weight gets a finite gradient;",
    "- evaluation: the output of an image is the same, bit for bit, whatever else is in the batch;",
    "- files: tensors and output are the same, bit for bit, after saving and loading;",
    "- another image size, if the float model takes one.",
    "",
    "| column | meaning |",
    "|---|---|",
    "| convs wanted | those that neither policy (stem, final layers, gates) nor method keeps in float |",
    "| kept, and why | convolutions that stay float; *never run*: the model's forward does not use them |",
    "| on meta | models too large for the machine, of which only shapes were computed |",
)
_TOTALS = (
    "use",
    "method",
    "models",
    "pass",
    "fail",
    "nothing to do",
    "on meta",
    "convs wanted",
    "converted",
    "share",
    "linears converted",
)
_FAMILIES = (
    "family",
    "models",
    "pass",
    "convs",
    "converted",
    "kept, and why",
    "missed",
    "linears",
    "converted",
)
_SHORT = {
    Code.STEM: "stem",
    Code.GATE: "gate",
    Code.FINAL: "final",
    Code.NOT_CALLED: "never run",
}


def _sorted(records: Iterable[Record]) -> list[Record]:
    return sorted(
        latest(records),
        key=lambda r: (
            r.library != "timm",
            r.library,
            r.use,
            r.method != "bidense",
            r.method,
            r.family,
            r.name,
        ),
    )


def _versions(records: Sequence[Record]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    for record in records:
        if record.versions not in found:
            found.append(record.versions)
    return found


def _groups(records: Sequence[Record]) -> list[tuple[tuple[str, str, str], list[Record]]]:
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.library, record.use, record.method), []).append(record)
    return list(groups.items())


def _families(records: Sequence[Record]) -> list[tuple[str, list[Record]]]:
    families: dict[str, list[Record]] = {}
    for record in records:
        families.setdefault(record.family, []).append(record)
    return sorted(families.items())


def _totals(records: Sequence[Record]) -> dict[str, Any]:
    status = Counter(record.status for record in records)
    kept: Counter[str] = Counter()
    for record in records:
        kept.update(record.convs_kept)
    converted = sum(record.convs_converted for record in records)
    missed = sum(len(record.convs_missed) for record in records)
    return {
        "models": len(records),
        **{name: status[name] for name in _STATUS},
        "meta": sum(record.device == "meta" for record in records),
        "convs": sum(record.convs for record in records),
        "convs_wanted": converted + missed,
        "convs_converted": converted,
        "convs_kept": dict(kept.most_common()),
        "convs_missed": missed,
        "linears": sum(record.linears for record in records),
        "linears_converted": sum(record.linears_converted for record in records),
    }


def _title(use: str, method: str) -> str:
    return f"{method}, " + (
        "as encoders of UPerNet" if use == "upernet" else "classifiers as timm builds them"
    )


def _total_row(use: str, method: str, records: Sequence[Record]) -> tuple[str, ...]:
    t = _totals(records)
    share = f"{t['convs_converted'] / t['convs_wanted']:.2%}" if t["convs_wanted"] else "-"
    counts = (
        t["models"],
        t["pass"],
        t["fail"],
        t["skip"],
        t["meta"],
        t["convs_wanted"],
        t["convs_converted"],
    )
    return (use, method, *(f"{n:,}" for n in counts), share, f"{t['linears_converted']:,}")


def _family_row(family: str, records: Sequence[Record]) -> tuple[str, ...]:
    t = _totals(records)
    kept = ", ".join(
        f"{count} {_SHORT.get(Statement.read(reason).code, reason)}"
        for reason, count in t["convs_kept"].items()
    )
    return (
        family,
        str(t["models"]),
        str(t["pass"]),
        f"{t['convs']:,}",
        f"{t['convs_converted']:,}",
        kept or "-",
        str(t["convs_missed"] or "-"),
        f"{t['linears']:,}",
        f"{t['linears_converted']:,}",
    )


def _exceptions(records: Sequence[Record]) -> list[str]:
    """Failures, models that were only converted, and layers that were missed, one line each."""
    sections: list[tuple[str, list[str]]] = [
        (
            "Failures",
            [f"{_name(r)}: {r.failed}: {r.reason}" for r in records if r.status == "fail"],
        ),
        (
            "Too large for the machine: converted on the meta device, shapes only",
            [f"{_name(r)}: {r.params / 1e6:,.0f} M parameters" for r in records if r.device == "meta"],
        ),
        (
            "Overflow at the smallest image (last maps of one pixel): checked at the next size",
            [f"{_name(r)}: {r.overflows}" for r in records if r.overflows],
        ),
        ("Nothing to convert", [f"{_name(r)}: {r.reason}" for r in records if r.status == "skip"]),
        (
            "Convolutions wanted and not converted",
            [f"{_name(r)}: {_missed(r)}" for r in records if r.convs_missed],
        ),
    ]
    lines = []
    for title, items in sections:
        lines += [f"## {title}", "", *([f"- {item}" for item in items] or ["None."]), ""]
    return lines


def _name(record: Record) -> str:
    beside = "" if record.use == "model" else f" under {record.use}"
    return f"`{record.name}`{beside} ({record.method})"


def _missed(record: Record) -> str:
    first = record.convs_missed[0]
    more = len(record.convs_missed) - 1
    return first + (f", and {more} more" if more else "")
