"""The families of timm, and the smallest model of each."""

from __future__ import annotations

from pathlib import Path

import timm

from binarize.coverage import Subject, subjects

FAMILIES = sorted({timm.model_entrypoint(name).__module__.rpartition(".")[2] for name in timm.list_models()})
SMALLEST = dict(
    line.split()
    for line in (Path(__file__).parent / "coverage" / "smallest.txt").read_text().splitlines()
    if not line.startswith("#")
)


def smallest(family: str) -> Subject:
    """As `smallest.txt` says; found out if the family is not there."""
    known = Subject(name=SMALLEST.get(family, ""))
    if known.name in timm.list_models():
        return known
    return subjects.smallest_per_family(s for s in subjects.subjects() if s.family == family)[0]
