"""Pairs of files by a list: `image truth` on each line, or the name that both share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from binarize.data.dataset import Pair
from binarize.data.files import IMAGES, existing, lines, place, split_columns
from binarize.data.pairing import Naming, matched
from binarize.errors import DataError, listed

_HEADINGS = ("image", "img", "file", "path", "name", "id", "rgb", "input")


def listed_pairs(
    source: Path, root: Path, images: str, truths: str, naming: Naming, *, nested: bool = False
) -> list[Pair]:
    """The pairs that a list names.

    A line has the path of an image and that of its truth, with blanks, tabs, commas or semicolons between.
    Further columns, a first line of headings, and images with the truth `None` are left out. Paths are
    relative to `root` or to the list's folder; folders at their beginning that are not there are skipped:
    `/SegNet/CamVid/train/1.png` is found at `train/1.png`. A line may also have a single name, as in VOC's
    lists, with or without its ending: the image is then looked for in `images`, the truth in `truths`.

    Args:
        source: the list.
        root: of the data set.
        images: folder of the images in `root`, for lists of names.
        truths: likewise of the truths.
        naming: how names of images and of truths differ, for lists of names.
        nested: whether the files of those folders lie in folders inside them.

    Raises:
        DataError: the list, or a file of it, is missing, or a line is of neither form.
    """
    rows = _rows(source)
    if len(rows[0][1]) == 1:
        return _by_names(source, rows, root / images, root / truths, naming, nested=nested)
    pairs = []
    for number, parts in rows:
        if len(parts) < 2:
            raise DataError(f"{source}, line {number}: one name; expected `image truth`, as in other lines.")
        if parts[1] == "None":  # as in BTS's lists: an image without a truth
            continue
        pairs.append(Pair(_find(parts[0], root, source), _find(parts[1], root, source)))
    return existing(pairs, source)


def has_pairs(source: Path) -> bool:
    """Whether the lines of a list name images and truths, not images alone.

    Raises:
        DataError: it is missing, not a text, or empty.
    """
    return len(_rows(source)[0][1]) > 1


def found_in(source: Path, root: Path) -> bool:
    """Whether the first pair of a list is found in `root`.

    Raises:
        DataError: likewise.
    """
    image, truth = _rows(source)[0][1][:2]
    return all(_find(name, root, root / source.name).is_file() for name in (image, truth))


def _rows(source: Path) -> list[tuple[int, list[str]]]:
    """Line number and columns of each line, without a heading."""
    found = [(number, _columns(line)) for number, line in lines(source).items() if not line.startswith("#")]
    if found and found[0][1][0].lower().split("_")[0] in _HEADINGS and len(found) > 1:
        found = found[1:]
    if not found:
        raise DataError(f"{source}: the list is empty.")
    return found


def _columns(line: str) -> list[str]:
    for mark in (",", ";"):
        parts = [part.strip().strip("\"'") for part in line.split(mark)]
        if len(parts) > 1 and all(parts[:2]):
            return parts
    return split_columns(line)


def _find(name: str, root: Path, source: Path) -> Path:
    """The file that a list calls `name`; if there is none, the likeliest path, for the message."""
    if Path(name).is_absolute() and Path(name).is_file():
        return Path(name)
    for base in (root, source.parent):
        if (found := place(base, name)).is_file():
            return found
    parts = PurePosixPath(name.replace("\\", "/")).parts
    for start in range(1, len(parts)):
        if (found := place(root, "/".join(parts[start:]))).is_file():
            return found
    return place(root, name)


def _by_names(
    source: Path,
    rows: Sequence[tuple[int, list[str]]],
    images: Path,
    truths: Path,
    naming: Naming,
    *,
    nested: bool,
) -> list[Pair]:
    found = matched(images, truths, naming, nested=nested)
    keys = {_stem(path.relative_to(images).as_posix()): key for key, path in found.images.items()}
    short = {name.rpartition("/")[2]: key for name, key in keys.items()}
    pairs, alone, missing = [], [], []
    for _, (name, *_) in rows:
        stem = _stem(re.sub(r"^[/.\\]+", "", name.replace("\\", "/")))
        key = next((k for k in (keys.get(stem), short.get(stem.rpartition("/")[2])) if k is not None), None)
        if key is None:
            missing.append(name)
        elif key not in found.truths:
            alone.append(name)
        else:
            pairs.append(Pair(found.images[key], found.truths[key]))
    for names, what, place_ in ((missing, "image", images), (alone, "truth", truths)):
        if names:
            raise DataError(
                f"{source}: {len(names)} of {len(rows)} names have no {what} in {place_}: {listed(names, 3)}."
            )
    return pairs


def _stem(name: str) -> str:
    """A name without the ending of an image."""
    ending = next((e for e in IMAGES if name.lower().endswith(e)), "")
    return name[: len(name) - len(ending)]
