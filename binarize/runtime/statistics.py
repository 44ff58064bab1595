"""Sums over positions that one packed layer makes on the way and the next one needs for its threshold.

They are handed over beside the map, not with it: between the two layers a network permutes and reshapes. A
layer takes them only if its input is the very memory that the layer before it wrote last, unchanged since.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

import torch
from torch import Tensor


class Link:
    """Joins a layer that makes sums with those that take them; copies of a network get links of their own."""


class _Made(NamedTuple):
    """A result and its statistics; it is held, so that nothing else can come to lie at its address."""

    link: Link
    result: Tensor
    version: int
    sums: Tensor


class _Latest(threading.local):
    made: _Made | None = None


_latest = _Latest()


def hand_over(link: Link, result: Tensor, sums: Tensor) -> None:
    """Keep the sums (N, C) of a channels-last map (N, C, H, W) for the next layer on this thread.

    Args:
        link: with the layers that may take them.
        result: the map, no inference tensor: changes in place must be counted.
        sums: its sums over positions.
    """
    _latest.made = _Made(link, result, result._version, sums)


def taken(link: Link, maps: Tensor) -> Tensor | None:
    """The sums (N, C) of these maps if they were handed over last, by this link; they are gone then."""
    made, _latest.made = _latest.made, None
    if made is None or made.link is not link:
        return None
    result = made.result
    same = maps is result or (
        maps.data_ptr() == result.data_ptr()
        and maps.shape[:2] == result.shape[:2]
        and maps.numel() == result.numel()
        and maps.is_contiguous(memory_format=torch.channels_last)
    )
    return made.sums if same and result._version == made.version else None
