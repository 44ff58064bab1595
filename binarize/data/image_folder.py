"""Images in a folder for each class: ImageNet, and data of your own."""

from __future__ import annotations

from pathlib import Path

from binarize.data.catalog import register_dataset
from binarize.data.cifar import select
from binarize.data.class_folders import ClassFolders, folder_names, place_of, read_folders
from binarize.data.classes import ClassDataset, Classes
from binarize.errors import ConfigError, DataError

_USUAL = ("train", "val", "test")


@register_dataset(
    "imagenet",
    task="classification",
    splits=("train", "val"),
    folders=("imagenet", "ImageNet", "ILSVRC2012"),
    layout="train/<wnid>/*.JPEG and val/<wnid>/*.JPEG",
    terms="ImageNet (Russakovsky et al., IJCV 2015): images for non-commercial research, under its terms of "
    "access; cite it.",
)
def imagenet(root: Path, split: str, *, limit: int | None = None) -> ClassDataset:
    """ILSVRC 2012 in folders named by their WordNet ids, which are the names of the classes, in sorted order.

    Args:
        root: of the data set.
        split: train or val.
        limit: take only this many images of the split, as many of each class; None for all.

    Raises:
        DataError: folders are missing, or hold no images.
    """
    return _folders(root, split, ("train", "val"), limit=limit)


@register_dataset(
    "image-folder",
    task="classification",
    splits=(),
    folders=("image-folder",),
    layout="<split>/<class>/<image>, or <split>.zip; with data.options.shares <class>/<image>",
)
def image_folder(
    root: Path,
    split: str,
    *,
    classes: list[str] | None = None,
    shares: dict[str, float] | None = None,
    of: str | None = None,
    limit: int | None = None,
) -> ClassDataset:
    """Images sorted into a folder for each class.

    Args:
        root: of the data set.
        split: name of a folder, or of a zip file, in it; or of one of `shares`.
        classes: names of the folders in the order of their ids; by default all that occur in train, val, test
            and `split`, sorted.
        shares: splits to draw from the images of one folder, and the share of each: `{train: 0.8, val: 0.2}`.
            Each class is divided alike, by the names of the images (`parts.drawn`).
        of: the folder in `root` that they are drawn from; by default `root` itself.
        limit: take only this many images of the split, as many of each class; None for all.

    Raises:
        ConfigError: shares that do not fit together, or a class that is given twice.
        DataError: folders are missing, hold no images, or are not classes.
    """
    if classes is not None and len(set(classes)) < len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        raise ConfigError(f"data set image-folder: classes: {twice!r} is given twice.")
    if of is not None and not shares:
        raise ConfigError("data set image-folder: `of` names the folder that `shares` divides: give both.")
    return _folders(root, split, _USUAL, classes=classes, shares=shares, of=of, limit=limit)


def _folders(
    root: Path,
    split: str,
    usual: tuple[str, ...],
    *,
    classes: list[str] | None = None,
    shares: dict[str, float] | None = None,
    of: str | None = None,
    limit: int | None,
) -> ClassDataset:
    divided = split in (shares or {})
    place = (root if of is None else place_of(root, of)) if divided else place_of(root, split)
    if place is None:
        part = of if divided else split
        raise DataError(
            f"{root}: neither a folder {part} nor {part}.zip is there; expected {part}/<class>/<image>."
        )
    found = read_folders(place)
    # all splits have the same classes, whichever of them have images there
    names = tuple(classes) if classes is not None else _names(root, place, found, usual)
    if len(names) < 2:
        raise DataError(f"{place}: one class, {', '.join(names)}; expected a folder for each of several.")
    labels = found.labels(names, place)
    chosen = select(found.images, labels, split, limit, (shares or {}) if divided else {})
    if not len(chosen):
        raise DataError(f"{place}: no image for the part {split}.")
    return ClassDataset(found.images.take(chosen), labels[chosen], Classes(names=names))


def _names(root: Path, place: Path, found: ClassFolders, usual: tuple[str, ...]) -> tuple[str, ...]:
    names = set(found.names)
    for part in usual:
        other = place_of(root, part)
        if place != root and other is not None and other != place:
            names |= set(folder_names(other))
    return tuple(sorted(names))
