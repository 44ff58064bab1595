"""CIFAR-10 and CIFAR-100: 60,000 images of 32x32 (Krizhevsky, Learning Multiple Layers of Features, 2009).

In any of three layouts: the official binary files, the official Python files (read by torchvision, which
compares their checksums first), or images `train/<class>/<image>` and `test/<class>/<image>`, in folders or
in train.zip and test.zip. Images in JPEG are copies that lost a little: figures on them are not exactly those
of the official files.

The authors give no validation images. `val` is a tenth of the training images, 500 or 50 of each class,
drawn by `parts.drawn` from the images' names (their numbers in the official files, whose `val` is another one
than that of image files); `train` is the rest, and `trainval` all of them, which papers train on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from binarize.data.catalog import register_dataset
from binarize.data.class_folders import place_of, read_folders
from binarize.data.classes import ClassDataset, Classes, Images, MemoryImages
from binarize.data.files import inside, text
from binarize.data.parts import drawn, few
from binarize.errors import ConfigError, DataError

_PIXELS = 3 * 32 * 32
_SHARES = {"train": 0.9, "val": 0.1}
_SPLITS = ("train", "val", "trainval", "test")
_LAYOUT = (
    "cifar-10-batches-bin, cifar-10-batches-py, or train/<class>/*, test/<class>/* (also as train.zip, "
    "test.zip)"
)
_TERMS = (
    "(Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009): published for research; "
    "cite it."
)


@dataclass(frozen=True)
class _Kind:
    """One of both sets: its official files, numbers of labels in a record, the last of which counts."""

    name: str
    classes: int
    binary: str
    pickled: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    labels: int
    names: str
    known: tuple[str, ...] = ()


_TEN = _Kind(
    name="cifar10",
    classes=10,
    binary="cifar-10-batches-bin",
    pickled="cifar-10-batches-py",
    train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    test=("test_batch.bin",),
    labels=1,
    names="batches.meta.txt",
    known=(*("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),),
)
_HUNDRED = _Kind(
    name="cifar100",
    classes=100,
    binary="cifar-100-binary",
    pickled="cifar-100-python",
    train=("train.bin",),
    test=("test.bin",),
    labels=2,
    names="fine_label_names.txt",
)


@register_dataset(
    "cifar10",
    task="classification",
    splits=_SPLITS,
    folders=("cifar10", "CIFAR10", "cifar-10", *(_TEN.binary, _TEN.pickled)),
    layout=_LAYOUT,
    terms=f"CIFAR-10 {_TERMS}",
)
def cifar10(root: Path, split: str, *, limit: int | None = None) -> ClassDataset:
    """50,000 training and 10,000 test images of ten classes.

    Args:
        root: of the data set.
        split: train (45,000), val (5,000), trainval or test.
        limit: take only this many images of the split, as many of each class; None for all.

    Raises:
        DataError: files are missing or not as their layout requires.
    """
    return _cifar(_TEN, root, split, limit)


@register_dataset(
    "cifar100",
    task="classification",
    splits=_SPLITS,
    folders=("cifar100", "CIFAR100", "cifar-100", *(_HUNDRED.binary, _HUNDRED.pickled)),
    layout=_LAYOUT.replace("10-batches-bin", "100-binary").replace("10-batches-py", "100-python"),
    terms=f"CIFAR-100 {_TERMS}",
)
def cifar100(root: Path, split: str, *, limit: int | None = None) -> ClassDataset:
    """As `cifar10`, of a hundred classes (the fine labels).

    Args:
        root: of the data set.
        split: train (45,000), val (5,000), trainval or test.
        limit: take only this many images of the split, as many of each class; None for all.

    Raises:
        DataError: files are missing or not as their layout requires.
    """
    return _cifar(_HUNDRED, root, split, limit)


def _cifar(kind: _Kind, root: Path, split: str, limit: int | None) -> ClassDataset:
    training = split != "test"
    place = place_of(root, "train" if training else "test")
    binary, pickled = inside(root, kind.binary), inside(root, kind.pickled)
    if (binary / kind.test[0]).is_file():
        images, labels, names = _binary(kind, binary, training=training)
    elif place is not None:
        images, labels, names = _folders(kind, place)
    elif (pickled / ("test_batch" if kind is _TEN else "test")).is_file():
        images, labels, names = _pickled(kind, pickled, training=training)
    else:
        part = "train" if training else "test"
        raise DataError(
            f"{root}: no {kind.name}: neither {kind.binary}/{kind.test[0]}, nor {part}/<class>/<image> or "
            f"{part}.zip, nor {kind.pickled} is there."
        )
    truth = Classes(names=names)
    chosen = select(images, labels, split, limit, _SHARES if split in _SHARES else {})
    return ClassDataset(MemoryImages.of(images.take(chosen)), labels[chosen], truth)


def select(
    images: Images, labels: np.ndarray, split: str, limit: int | None, shares: Mapping[str, float]
) -> np.ndarray:
    """Indices of the images of a split: a part of them if there are shares, and at most `limit`.

    Raises:
        ConfigError: a limit below 1, or shares that do not fit together.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit: {limit}: expected a number of images, at least 1; leave it out for all.")
    chosen = np.arange(len(images), dtype=np.int64)
    if not shares and (limit is None or limit >= len(images)):
        return chosen
    keys = [images.key(index) for index in range(len(images))]
    if shares:
        chosen = drawn(keys, labels, shares, split)
    if limit is not None and limit < len(chosen):
        chosen = chosen[few([keys[i] for i in chosen], labels[chosen], limit)]
    return chosen


_Read = tuple[Images, np.ndarray, tuple[str, ...]]


def _folders(kind: _Kind, place: Path) -> _Read:
    found = read_folders(place)
    if len(found.names) != kind.classes or (kind.known and found.names != kind.known):
        expected = f": {', '.join(kind.known)}" if kind.known else ""
        raise DataError(
            f"{place}: {len(found.names)} folders of classes ({', '.join(found.names[:10])}), expected "
            f"{kind.classes}{expected}."
        )
    return found.images, found.folders, found.names


def _binary(kind: _Kind, folder: Path, *, training: bool) -> _Read:
    records, places = [], []
    for name in kind.train if training else kind.test:
        path, size = folder / name, kind.labels + _PIXELS
        try:
            content = np.fromfile(path, dtype=np.uint8)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from error
        if not len(content) or len(content) % size:
            raise DataError(f"{path}: {len(content)} bytes; expected records of {size} bytes.")
        records.append(content.reshape(-1, size))
        places += [f"{path}, image {i}" for i in range(len(records[-1]))]
    both = np.concatenate(records)
    labels = both[:, kind.labels - 1].astype(np.int64)
    wrong = np.flatnonzero(labels >= kind.classes)
    if len(wrong):
        raise DataError(f"{places[wrong[0]]}: label {labels[wrong[0]]}; expected 0 to {kind.classes - 1}.")
    pixels = torch.from_numpy(both[:, kind.labels :].reshape(-1, 3, 32, 32))
    return _Numbered(pixels, np.array(places, dtype=object)), labels, _names(kind, folder)


def _pickled(kind: _Kind, folder: Path, *, training: bool) -> _Read:
    from torchvision import datasets

    read = datasets.CIFAR10 if kind is _TEN else datasets.CIFAR100
    try:
        found = read(root=str(folder.parent), train=training)
    except RuntimeError:
        raise DataError(
            f"{folder}: not the official files (torchvision compares their checksums). The binary version, "
            f"{kind.binary}, needs no unpickling."
        ) from None
    names = [f"{folder}, {'training' if training else 'test'} image {i}" for i in range(len(found.data))]
    pixels = torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous()
    labels = np.array(found.targets, dtype=np.int64)
    return _Numbered(pixels, np.array(names, dtype=object)), labels, tuple(found.classes)


class _Numbered(MemoryImages):
    """Images of the official files, which have numbers in place of names."""

    def key(self, index: int) -> str:
        """Its number."""
        return str(index)


def _names(kind: _Kind, folder: Path) -> tuple[str, ...]:
    """From the official table beside the files; else what is known."""
    table = folder / kind.names
    if table.is_file():
        found = tuple(line.strip() for line in text(table).splitlines() if line.strip())
        if len(found) == kind.classes:
            return found
    return kind.known or tuple(f"class {i}" for i in range(kind.classes))
