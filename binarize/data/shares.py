"""Splits of files that lie in one folder: by shares, the same ones every time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from binarize.data.dataset import Pair
from binarize.errors import ConfigError, DataError, unknown_name


def counts(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """How many of `total` files each split gets: by its share, and at least one.

    Raises:
        ConfigError: shares that are not above 0, or whose sum is above 1.
        DataError: fewer files than splits.
    """
    if not shares or min(shares.values()) <= 0 or sum(shares.values()) > 1 + 1e-6:
        raise ConfigError(
            f"data set folder: shares: {dict(shares)}: expected numbers above 0 whose sum is at most 1, as "
            "in {train: 0.8, val: 0.1, test: 0.1}."
        )
    if total < len(shares):
        raise DataError(
            f"data set folder: {total} pairs for {len(shares)} splits ({', '.join(shares)}): each needs one."
        )
    found = {name: max(1, round(share * total)) for name, share in shares.items()}
    while sum(found.values()) > total:  # rounded up too often
        found[max(found, key=lambda name: found[name])] -= 1
    largest = max(found, key=lambda name: shares[name])
    if sum(shares.values()) > 1 - 1e-6:
        found[largest] += total - sum(found.values())
    return found


def part(
    pairs: Sequence[Pair], split: str, shares: Mapping[str, float], *, base: Path, seed: int = 0
) -> list[Pair]:
    """The pairs of one split, in the order of their names.

    Which files these are depends on their paths under `base` and on `seed` alone: they are ordered by a hash
    of both, and dealt out to the splits one after the other.

    Args:
        pairs: all of them.
        split: one of `shares`.
        shares: of each split, 0 to 1.
        base: folder of the images.
        seed: another one makes other splits.

    Raises:
        ConfigError: no such split, or wrong shares.
        DataError: fewer files than splits.
    """
    if split not in shares:
        raise ConfigError(unknown_name("split of the data set folder", split, shares))
    numbers = counts(shares, len(pairs))

    def drawn(pair: Pair) -> bytes:
        name = pair.image.relative_to(base).with_suffix("").as_posix()
        return hashlib.sha256(f"{seed}/{name}".encode()).digest()

    order = sorted(pairs, key=drawn)
    first = sum(number for name, number in list(numbers.items())[: list(numbers).index(split)])
    return sorted(order[first : first + numbers[split]])
