"""Memory of a program's maps: one arena, in which buffers that are not used at the same time share places.

Buffers that are done with before a large result is written lie in the memory of that result: scores of a
segmentation at the image's size have more bytes than all maps before them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from binarize.runtime.program.recorded import storage_of

ALIGNMENT = 64
LARGE = 16 << 20
"""Bytes from which on a result is a host."""
SMALL = 64 << 10
"""Bytes below which a buffer stays in the arena."""


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


class Host(NamedTuple):
    """Memory that is there anyway and not written before some node: that of a large result.

    Attributes:
        size: bytes.
        first: index of the node that writes it first.
    """

    size: int
    first: int


class Place(NamedTuple):
    """Where a buffer lies.

    Attributes:
        host: number of a `Host`; None for the arena.
        offset: bytes.
    """

    host: int | None
    offset: int


@dataclass(frozen=True)
class Planned:
    """Where the buffers of a program lie.

    Attributes:
        places: of each buffer, in the order in which they are asked for; `host` is the number of an output's
            buffer. None for outputs.
        hosts: outputs in whose memory others lie, by the number of their buffer.
        bytes: of the arena.
    """

    places: tuple[Place | None, ...]
    hosts: dict[int, Tensor]
    bytes: int


def plan_places(buffers: Sequence[Buffer], hosts: Sequence[Host] = ()) -> tuple[list[Place], int]:
    """Places of buffers, and the size of the arena in bytes.

    Large buffers first, each at the lowest place that is free while it lives: within some per cent of the
    least possible size for the graphs of networks. Hosts before the arena: what is not read any more when
    a host is written can lie there.

    Args:
        buffers: in any order; those of size 0 get place 0.
        hosts: large ones; small buffers stay out of them, whose addresses change from call to call.
    """
    places = [Place(None, 0)] * len(buffers)
    regions: list[tuple[int | None, list[int]]] = [(i, []) for i in range(len(hosts))]
    regions.append((None, []))  # indices of the buffers in each, by offset
    total = 0
    for index in sorted(range(len(buffers)), key=lambda i: (-buffers[i].size, buffers[i].first)):
        buffer = buffers[index]
        if not buffer.size:
            continue
        for host, placed in regions:
            if host is not None and (buffer.last >= hosts[host].first or buffer.size < SMALL):
                continue
            at = _lowest(buffer, [(buffers[i], places[i].offset) for i in placed])
            if host is not None and at + buffer.size > hosts[host].size:
                continue
            places[index] = Place(host, at)
            placed.append(index)
            placed.sort(key=lambda i: places[i].offset)
            if host is None:
                total = max(total, at + buffer.size)
            break
    return places, _aligned(total)


def plan(buffers: Sequence[tuple[Tensor, int, int]], last: dict[int, int], outputs: set[int]) -> Planned:
    """Places of all buffers.

    Args:
        buffers: of a first lowering.
        last: index of the last node that reads a memory, by `storage_of`.
        outputs: memories that the network returns.
    """
    own = [storage_of(t) not in outputs for t, _, _ in buffers]
    wanted = [
        Buffer(size if mine else 0, first, last.get(storage_of(t), first))
        for mine, (t, size, first) in zip(own, buffers, strict=True)
    ]
    large = [i for i, (_, size, _) in enumerate(buffers) if not own[i] and size >= LARGE]
    found, total = plan_places(wanted, [Host(buffers[i][1], buffers[i][2]) for i in large])
    places = [
        Place(None if place.host is None else large[place.host], place.offset) if mine else None
        for mine, place in zip(own, found, strict=True)
    ]
    return Planned(tuple(places), {i: buffers[i][0] for i in large}, total)


def at_memory(
    given: Tensor, shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype, offset: int
) -> Tensor:
    """A tensor in the memory of another one; `offset` counts in values from where that memory begins."""
    empty = torch.empty(0, dtype=dtype, device=given.device)
    return empty.set_(given.untyped_storage(), offset, shape, strides)


def _lowest(buffer: Buffer, placed: Sequence[tuple[Buffer, int]]) -> int:
    """The lowest offset that is free while a buffer lives, beside others in the order of theirs."""
    at = 0
    for other, offset in placed:
        if other.first <= buffer.last and buffer.first <= other.last:
            if offset - at >= buffer.size:
                break
            at = max(at, _aligned(offset + other.size))
    return at


def _aligned(n: int) -> int:
    return -(-n // ALIGNMENT) * ALIGNMENT
