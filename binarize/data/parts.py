"""Parts of a data set that has none, and a few of many images, drawn by the images' names.

The order is that of SHA-256 of each name: no generator, version or machine changes it, nor does the order of
the files.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np

from binarize.errors import ConfigError


def drawn(keys: Sequence[str], labels: np.ndarray, shares: Mapping[str, float], part: str) -> np.ndarray:
    """Indices (n,) int64, sorted, of the images of a part; every class is divided alike.

    Of a class with n images, each part but the largest gets its share of n, rounded, but at least one image;
    the largest part gets the rest.

    Args:
        keys: names of the images.
        labels: their class ids (N,).
        shares: of each part, in the order in which they are cut; together 1.
        part: one of them.

    Raises:
        ConfigError: shares that are not positive, or not 1 together.
    """
    total = sum(shares.values())
    if any(share <= 0 for share in shares.values()) or not math.isclose(total, 1.0, abs_tol=1e-6):
        raise ConfigError(f"shares: {dict(shares)}: expected positive numbers whose sum is 1, got {total:g}.")
    largest = max(shares, key=lambda name: shares[name])
    chosen: list[int] = []
    for members in _by_class(keys, labels):
        sizes = {n: max(1, round(share * len(members))) for n, share in shares.items() if n != largest}
        sizes[largest] = max(0, len(members) - sum(sizes.values()))
        start = 0
        for name in shares:
            if name == part:
                chosen += members[start : start + sizes[name]]
            start += sizes[name]
    return np.array(sorted(chosen), dtype=np.int64)


def few(keys: Sequence[str], labels: np.ndarray, limit: int) -> np.ndarray:
    """Indices (n,) int64, sorted, of at most `limit` images, as many of each class as far as it has them."""
    turns = [(turn, index) for members in _by_class(keys, labels) for turn, index in enumerate(members)]
    turns.sort(key=lambda pair: pair[0])  # stable: classes in their order
    return np.array(sorted(index for _, index in turns[:limit]), dtype=np.int64)


def _by_class(keys: Sequence[str], labels: np.ndarray) -> list[list[int]]:
    """Indices of the images of each class, in their drawn order."""
    order = sorted(range(len(keys)), key=lambda i: hashlib.sha256(keys[i].encode()).digest())
    found: dict[int, list[int]] = {int(label): [] for label in np.unique(labels)}
    for index in order:
        found[int(labels[index])].append(index)
    return list(found.values())
