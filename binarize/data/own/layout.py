"""How folders of images and truths are laid out: which one is for which split."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from binarize.data.files import folder, pictures

WORDS = {
    "train": ("training", "train"),
    "val": ("validation", "valid", "val", "dev"),
    "test": ("testing", "test"),
}
"""How folders and lists of splits are called, by what they are for."""

_SPLIT = "{split}"
_LEVELS = 3  # folders of a path, from its end, in whose names a split is looked for


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where images and truths lie.

    Attributes:
        root: folder that holds both.
        images: folder of the images in it, with {split} where the splits have folders of their own.
        truths: likewise of the truths.
        nested: whether the files lie in folders inside these.
        splits: name of each split by what it is for (`train`, `val`, `test`); empty for files in one folder.
        lists: file in the root that lists the pairs or the images of a split, with {split} in its name; empty
            if folders alone say it. For a list of pairs, `images` and `truths` are empty.
    """

    root: Path
    images: str
    truths: str
    nested: bool
    splits: dict[str, str] = field(default_factory=dict)
    lists: str = ""

    def folders(self, split: str = "") -> tuple[Path, Path]:
        """Of images and truths, for one of the splits."""
        one, two = (self.root / text.replace(_SPLIT, split) for text in (self.images, self.truths))
        return one, two


def find_layout(images: Path, truths: Path, *, splits: bool = True) -> Layout:
    """The layout around a folder of images and one of truths, which may be those of one split.

    Splits are folders whose names begin or end with train, val, test or words like these, inside of the given
    folders or above: the names have to be the same on both sides, and one of them the training split.

    Args:
        images: folder of the images.
        truths: of their truths.
        splits: whether to look for them.

    Raises:
        DataError: no such folders.
    """
    one = Path(os.path.abspath(folder(images, "images")))  # noqa: PTH100 - links stay: names are what counts
    two = Path(os.path.abspath(folder(truths, "the truth")))  # noqa: PTH100
    best: tuple[str, str] = (str(one), str(two))
    named: dict[str, str] = {}
    for form in _forms(one) if splits else ():
        for other in _forms(two):
            found = _splits(form, other)
            if "train" in found and len(found) > max(1, len(named)):
                best, named = (form, other), found
    fixed = [Path(text.partition(_SPLIT)[0]) if _SPLIT in text else Path(text) for text in best]
    ends = [path if text.partition(_SPLIT)[0].endswith(os.sep) or _SPLIT not in text else path.parent
            for path, text in zip(fixed, best, strict=True)]  # fmt: skip
    root = common_folder(*ends)
    inner = [inside(text, root) for text in best]
    first = Path(best[0].replace(_SPLIT, named.get("train", "")))
    return Layout(root=root, images=inner[0], truths=inner[1], nested=not pictures(first), splits=named)


def _forms(path: Path) -> Iterator[str]:
    """The path with {split} in place of a word for a split, inside or in one of its last folders."""
    inside = sorted(child.name for child in path.iterdir() if child.is_dir())
    for name in inside:
        for form in with_split(name):
            yield str(path / form)
    parts = path.parts
    for index in range(len(parts) - 1, max(0, len(parts) - 1 - _LEVELS), -1):
        for form in with_split(parts[index]):
            yield str(Path(*parts[:index], form, *parts[index + 1 :]))


def with_split(name: str) -> Iterator[str]:
    """A name with {split} in place of a word for a split at its beginning or end."""
    lower = name.lower()
    for word in (w for words in WORDS.values() for w in words):
        if lower.startswith(word):
            yield _SPLIT + name[len(word) :]
        elif lower.endswith(word):
            yield name[: -len(word)] + _SPLIT


def _splits(form: str, other: str) -> dict[str, str]:
    """The names of splits for which both folders exist."""
    found = {}
    for role, words in WORDS.items():
        spelled = [s for word in words for s in (word, word.capitalize(), word.upper())]
        there = (s for s in spelled if all(Path(f.replace(_SPLIT, s)).is_dir() for f in (form, other)))
        if (name := next(there, None)) is not None:
            found[role] = name
    return found


def common_folder(one: Path, two: Path) -> Path:
    """The closest folder that holds both; that of the images if there is none but the whole file system."""
    try:
        common = Path(os.path.commonpath([one, two]))
    except ValueError:  # two drives
        return one
    return one if common == Path(common.anchor) else common


def inside(text: str, root: Path) -> str:
    """A path relative to `root`; the whole path if it lies elsewhere."""
    path = Path(text)
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
