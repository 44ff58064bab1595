"""Leading dims that are split and merged: one shape that all of several shapes are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence


def regrouped(coarse: Sequence[int], fine: Sequence[int]) -> list[list[int]] | None:
    """The run of `fine` that each dim of `coarse` is the product of; None if there is none."""
    groups: list[list[int]] = []
    at = 0
    for size in coarse:
        group: list[int] = []
        while math.prod(group) < size and at < len(fine):
            group.append(fine[at])
            at += 1
        if math.prod(group) != size:
            return None
        groups.append(group)
    rest = list(fine[at:])
    if any(n != 1 for n in rest) or (rest and not groups):
        return None
    if rest:
        groups[-1] += rest
    return groups


def common(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...] | None:
    """The one of the shapes that all are made of; None if there is none."""
    for fine in sorted(set(shapes), key=len, reverse=True):
        if all(regrouped(shape, fine) is not None for shape in shapes):
            return fine
    return None
