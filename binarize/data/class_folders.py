"""Images in folders of their classes, `<class>/<image>`, in a folder or a zip file that is read in place."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from torch import Tensor

from binarize.data.classes import Images
from binarize.data.files import IMAGES
from binarize.data.reading import read_image, read_image_bytes
from binarize.errors import DataError

_BROKEN = (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, EOFError, zlib.error)


class _Named(Images):
    """Images by their paths below a place; names are kept in one array, which processes can share."""

    def __init__(self, place: Path, names: np.ndarray) -> None:
        self._place, self._names = place, names

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        """Its whole path."""
        return str(self._place / self._inner(index))

    def key(self, index: int) -> str:
        """Folder of its class and name, as in `cat/0001.jpg`."""
        return "/".join(PurePosixPath(self._inner(index)).parts[-2:])

    def take(self, indices: np.ndarray) -> _Named:
        """Some of them."""
        return type(self)(self._place, self._names[indices])

    def _inner(self, index: int) -> str:
        return os.fsdecode(bytes(self._names[index]))


class FolderImages(_Named):
    """Image files below a folder."""

    def read(self, index: int) -> Tensor:
        """From its file."""
        return read_image(self._place / self._inner(index))


class ZipImages(_Named):
    """Image files inside a zip file."""

    def read(self, index: int) -> Tensor:
        """From its entry."""
        entry = self._inner(index)
        try:
            content = _opened(self._place).read(entry)
        except KeyError:
            raise DataError(f"{self._place}: no entry {entry} any more: did the file change?") from None
        except _BROKEN as error:
            raise DataError(f"{self.name(index)}: cannot be read ({error}).") from error
        return read_image_bytes(content, self.name(index))


_OPEN: dict[tuple[int, Path], zipfile.ZipFile] = {}
"""By process: forked ones would move each other's place in the file."""


def _opened(path: Path) -> zipfile.ZipFile:
    key = (os.getpid(), path)
    if key not in _OPEN:
        try:
            _OPEN[key] = zipfile.ZipFile(path)
        except _BROKEN as error:
            raise DataError(f"{path}: not a readable zip file ({error}).") from error
    return _OPEN[key]


@dataclass(frozen=True)
class ClassFolders:
    """Images and the folders that they lie in.

    Attributes:
        names: of the folders, sorted; those without an image too.
        images: sorted by folder and name.
        folders: index into `names` of each image, (N,) int64.
    """

    names: tuple[str, ...]
    images: Images
    folders: np.ndarray

    def labels(self, classes: tuple[str, ...], where: Path) -> np.ndarray:
        """Class ids (N,) int64 of the images.

        Args:
            classes: names of the classes, which are names of folders.
            where: the place, for messages.

        Raises:
            DataError: a folder is not a class.
        """
        ids = {name: index for index, name in enumerate(classes)}
        unknown = [name for name in self.names if name not in ids]
        if unknown:
            shown = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
            of = f"{len(classes)} classes: {shown}"
            raise DataError(f"{where}: folder {unknown[0]} is not one of the {of}.")
        return np.array([ids[name] for name in self.names], dtype=np.int64)[self.folders]


def place_of(root: Path, part: str) -> Path | None:
    """The folder `part` in `root`, else the file `part.zip`; None if neither is there."""
    return next((p for p in (root / part, root / f"{part}.zip") if _is_place(p)), None)


def _is_place(path: Path) -> bool:
    return path.is_file() if path.suffix == ".zip" else path.is_dir()


def read_folders(place: Path) -> ClassFolders:
    """What a folder, or a zip file, holds.

    Raises:
        DataError: no folders of classes, or none with an image.
    """
    found = _in_zip(place) if place.suffix == ".zip" and place.is_file() else _in_folder(place)
    if not found.names:
        raise DataError(
            f"{place}: no folders of classes; expected <class>/<image>, images sorted into a folder for each "
            "class."
        )
    if not len(found.images):
        raise DataError(
            f"{place}: no image in any of the {len(found.names)} folders ({', '.join(IMAGES)}), first "
            f"{found.names[0]}."
        )
    return found


def folder_names(place: Path) -> tuple[str, ...]:
    """The names of `read_folders`; in a folder no image is read."""
    if place.suffix == ".zip" and place.is_file():
        return _in_zip(place).names
    return tuple(sorted(_entries(place, folders=True)))


def _in_folder(place: Path) -> ClassFolders:
    names = sorted(_entries(place, folders=True))
    files: list[str] = []
    folders: list[int] = []
    for index, name in enumerate(names):
        inside = sorted(n for n in _entries(place / name, folders=False) if _is_image(n))
        files += [f"{name}/{file}" for file in inside]
        folders += [index] * len(inside)
    return ClassFolders(tuple(names), FolderImages(place, _array(files)), np.array(folders, dtype=np.int64))


def _entries(place: Path, *, folders: bool) -> Iterator[str]:
    try:
        with os.scandir(place) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.is_dir() == folders:
                    yield entry.name
    except OSError as error:
        raise DataError(f"{place}: cannot be read ({error.strerror or error}).") from error


def _in_zip(place: Path) -> ClassFolders:
    entries = [PurePosixPath(name) for name in _opened(place).namelist() if not name.endswith("/")]
    chosen = [e for e in entries if _is_image(e.name) and len(e.parts) > 1 and e.parts[0] != "__MACOSX"]
    above = sorted({str(entry.parent.parent) for entry in chosen})
    if len(above) > 1:
        raise DataError(
            f"{place}: images lie at several depths, in folders of {above[0]} and of {above[1]}; expected "
            "<class>/<image>, all classes in one folder."
        )
    chosen.sort(key=lambda entry: (entry.parent.name, entry.name))
    names = sorted({entry.parent.name for entry in chosen})
    ids = {name: index for index, name in enumerate(names)}
    folders = np.array([ids[entry.parent.name] for entry in chosen], dtype=np.int64)
    return ClassFolders(tuple(names), ZipImages(place, _array([str(e) for e in chosen])), folders)


def _is_image(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGES  # noqa: PTH122 - a million names


def _array(names: list[str]) -> np.ndarray:
    return np.array([os.fsencode(name) for name in names], dtype=np.bytes_)
