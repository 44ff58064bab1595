"""Images that two splits share: figures on one of them then say nothing about new images."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from binarize.data.dataset import DenseDataset
from binarize.data.findings import Finding
from binarize.data.survey import has_files

READ = 2000
"""Files that are read at most to compare them; of more, only their names are compared."""


def overlap(one: DenseDataset, other: DenseDataset) -> list[tuple[Path, Path]]:
    """Images of `other` that are in `one` too: the same file, or another one of the same content.

    Files of different lengths differ, so few are read; if more than `READ` have equal lengths, none is.
    """
    first = [pair.image for pair in one.pairs]
    second = [pair.image for pair in other.pairs]
    by_path = {path.resolve(): path for path in first}
    same = {path: by_path[found] for path in second if (found := path.resolve()) in by_path}
    lengths = _by_length([path for path in first if path.is_file()])
    asked = [path for path in second if path not in same and path.is_file()]
    asked = [path for path in asked if path.stat().st_size in lengths]
    read = {twin for path in asked for twin in lengths[path.stat().st_size]}
    if len(asked) + len(read) <= READ:
        by_content = {_content(path): path for path in sorted(read)}
        same |= {path: by_content[found] for path in asked if (found := _content(path)) in by_content}
    return [(same[path], path) for path in second if path in same]


def shared_images(one: DenseDataset, other: DenseDataset, names: tuple[str, str]) -> Finding | None:
    """The finding for images that are in both splits; None if there are none.

    Args:
        one: the training split.
        other: a split that is evaluated.
        names: of both, for the message: "camvid train".
    """
    if not (has_files(one) and has_files(other) and (found := overlap(one, other))):
        return None
    twin, path = found[0]
    also = f"{path}" if twin.resolve() == path.resolve() else f"{path} is {twin}"
    return Finding(
        "shared",
        f"{names[1]}: {len(found)} of {len(other)} images are in {names[0]} too, first {also}: figures on "
        "them say how well the network remembers, not how well it does on new images.",
    )


def _by_length(paths: Sequence[Path]) -> dict[int, list[Path]]:
    found: dict[int, list[Path]] = defaultdict(list)
    for path in paths:
        found[path.stat().st_size].append(path)
    return dict(found)


def _content(path: Path) -> bytes:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()
