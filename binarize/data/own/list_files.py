"""Finding text files that list the images of each split: train.txt, ImageSets/Segmentation/val.txt."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from binarize.data.files import IMAGES
from binarize.data.lists import found_in
from binarize.data.own.layout import WORDS, Layout, common_folder, inside, with_split
from binarize.errors import DataError

_ENDINGS = (".txt", ".lst", ".csv")
_FOLDERS = ("", "lists", "splits", "ImageSets/Segmentation", "ImageSets")
_ABOVE = 3  # folders above a list in which its paths may begin


@dataclass(frozen=True, kw_only=True)
class Lists:
    """Lists of files.

    Attributes:
        form: path of a list, with {split} for the name of its split.
        splits: name of each split by what it is for; empty for one list of all files.
    """

    form: str
    splits: dict[str, str] = field(default_factory=dict)

    def path(self, split: str) -> Path:
        """The list of a split."""
        return Path(self.form.replace("{split}", split))

    def layout(self, folders: Layout | None = None) -> Layout:
        """Where the files lie: in `folders`, or where the paths of the lists begin.

        Raises:
            DataError: none of the paths leads to a file.
        """
        if folders is None:
            root = self._root()
            found = Layout(root=root, images="", truths="", nested=False)
        else:
            root = common_folder(folders.root, self.path("x").parent)
            places = (inside(str(folders.root / part), root) for part in (folders.images, folders.truths))
            images, truths = places
            found = dataclasses.replace(folders, root=root, images=images, truths=truths)
        return dataclasses.replace(found, splits=self.splits, lists=inside(self.form, root))

    def _root(self) -> Path:
        """The folder from which the paths of the lists are seen."""
        source = self.path(next(iter(self.splits.values()), ""))
        for base in (source.parent, *list(source.parent.parents)[:_ABOVE]):
            if base != Path(base.anchor) and found_in(source, base):
                return base
        raise DataError(
            f"{source}: the files that its first lines name are not in {source.parent}, nor in the folders "
            "above it. Put the list beside the data, or write paths relative to the list."
        )


def find_lists(given: Path) -> Lists:
    """The lists around one of them, or in a folder.

    Args:
        given: a list, of the training split or of all files; or a folder that holds train.txt and others.

    Raises:
        DataError: it is neither.
    """
    path = Path(os.path.abspath(given))  # noqa: PTH100 - links stay
    if path.is_dir():
        found = _lists_in(path)
        if found is None:
            raise DataError(f"{given}: no list of the training split in this folder (train.txt).")
        return found
    if not path.is_file():
        raise DataError(f"{given}: no such list, nor a folder of lists.")
    if path.suffix.lower() in IMAGES:
        raise DataError(f"{given}: an image; expected a text file with the paths of an image and its truth.")
    around = _lists_in(path.parent, path)
    return around if around is not None else Lists(form=str(path))


def lists_near(layout: Layout) -> Iterator[Lists]:
    """Lists of splits beside the images, in usual places."""
    bases = dict.fromkeys((layout.root, *(folder.parent for folder in layout.folders())))
    for base in bases:
        for name in _FOLDERS:
            found = _lists_in(base / name) if (base / name).is_dir() else None
            if found is not None and len(found.splits) > 1:
                yield found


def _lists_in(folder: Path, given: Path | None = None) -> Lists | None:
    """The lists of a folder, one for each split; None without one of the training split.

    Args:
        folder: that holds them.
        given: one of them, whose names the others follow.
    """
    endings = (given.suffix,) if given is not None else _ENDINGS
    for ending in endings:
        there = {path.stem for path in folder.iterdir() if path.suffix == ending and path.is_file()}
        for form in ["{split}"] if given is None else with_split(given.stem):
            names = {role: _first(form, words, there) for role, words in WORDS.items()}
            splits = {role: name for role, name in names.items() if name is not None}
            if "train" in splits and (given is None or given.stem in splits.values()):
                return Lists(
                    form=str(folder / f"{{split}}{ending}"), splits=_plain_ones(splits, given, there)
                )
    return None


def _plain_ones(splits: dict[str, str], given: Path | None, there: set[str]) -> dict[str, str]:
    """The splits, with val.txt beside train_aug.txt, but not beside trainval.txt, which holds it."""
    found = dict(splits)
    for role in ("val", "test"):
        named = given is not None and any(word in given.stem.lower() for word in WORDS[role])
        name = None if named else _first("{split}", WORDS[role], there)
        if name is not None:
            found.setdefault(role, name)
    return found


def _first(form: str, words: tuple[str, ...], there: set[str]) -> str | None:
    names = (form.replace("{split}", s) for word in words for s in (word, word.capitalize(), word.upper()))
    return next((name for name in names if name in there), None)
