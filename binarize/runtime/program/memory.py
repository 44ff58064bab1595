"""Memory of a program's maps: one arena, in which buffers that are not used at the same time share places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

ALIGNMENT = 64


class Buffer(NamedTuple):
    """What a step writes.

    Attributes:
        size: bytes.
        first: index of the node that writes it.
        last: index of the last node that reads it, or `first`.
    """

    size: int
    first: int
    last: int


def plan_offsets(buffers: Sequence[Buffer]) -> tuple[list[int], int]:
    """Places of buffers in an arena, and its size in bytes.

    Large buffers first, each at the lowest place that is free while it lives: within a few per cent of the
    least possible size for the graphs of networks.

    Args:
        buffers: in any order; those of size 0 get place 0.
    """
    offsets = [0] * len(buffers)
    placed: list[int] = []  # indices, by offset
    total = 0
    for index in sorted(range(len(buffers)), key=lambda i: (-buffers[i].size, buffers[i].first)):
        size, first, last = buffers[index]
        if not size:
            continue
        at = 0
        for other in placed:
            overlaps = buffers[other].first <= last and first <= buffers[other].last
            if overlaps:
                if offsets[other] - at >= size:
                    break
                at = max(at, _aligned(offsets[other] + buffers[other].size))
        offsets[index] = at
        placed.append(index)
        placed.sort(key=lambda i: offsets[i])
        total = max(total, at + size)
    return offsets, _aligned(total)


def _aligned(n: int) -> int:
    return -(-n // ALIGNMENT) * ALIGNMENT
