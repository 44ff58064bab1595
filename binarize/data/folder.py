"""Your own data: a folder of images and one of masks or depth maps, paired by their names."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from binarize.data.catalog import register_dataset
from binarize.data.class_options import labels_of
from binarize.data.dataset import DenseDataset, Depth, Pair
from binarize.data.files import folder
from binarize.data.lists import listed_pairs
from binarize.data.pairing import Naming, paired
from binarize.data.shares import part
from binarize.errors import ConfigError


@register_dataset(
    "folder",
    task=None,
    splits=(),
    folders=("folder",),
    layout="<split>/images and <split>/masks (class ids) or <split>/depth (16 bits); others by options",
)
def folders(
    root: Path,
    split: str,
    *,
    classes: dict[int, str] | list[str] | int | None = None,
    colours: dict[str, list[int]] | None = None,
    ignored: list[int | list[int]] | None = None,
    labels: dict[int, int] | None = None,
    palette: list[list[int]] | None = None,
    scale: float = 1000.0,
    max_depth: float | None = None,
    images: str = "{split}/images",
    truths: str | None = None,
    image_name: str = "{}",
    truth_name: str = "{}",
    nested: bool = False,
    lists: str | None = None,
    unpaired: Literal["error", "skip"] = "error",
    shares: dict[str, float] | None = None,
    seed: int = 0,
) -> DenseDataset:
    """Pairs by file name without its ending.

    Args:
        root: of the data set.
        split: name of a folder in it, or one of `shares`.
        classes: names, or how many, or the name of each value of the masks, {0: background, 7: car}; for
            segmentation.
        colours: (R, G, B) of each class by its name, in place of `classes`, for masks that hold colours.
        ignored: values of the masks, or colours, that do not count; 255 by default, [] for none.
        labels: class ids for values of the masks, {0: 0, 255: 1}; other values are ids themselves.
        palette: (R, G, B) per class.
        scale: of the depth files, units per metre.
        max_depth: largest depth that counts, in metres; for depth.
        images: folder of the images in `root`, where {split} stands for the split's name.
        truths: likewise of the truths; {split}/masks or {split}/depth by default.
        image_name: of an image without its ending, where {} stands for what it shares with its truth's.
        truth_name: likewise of a truth: `{}_mask`.
        nested: whether files lie in folders inside these, at the same places in both.
        lists: file in `root` that lists the pairs of a split, {split} in its name: lines `image truth`, or
            names of images in `images` whose truths are in `truths`.
        unpaired: whether an image without a truth is an error, or is left out with a warning.
        shares: of each split, {train: 0.8, val: 0.1, test: 0.1}, where files of all splits lie in one folder.
        seed: of the choice by `shares`.

    Raises:
        ConfigError: neither or both of `classes` and `max_depth` are given, or labels that are not classes.
        DataError: folders or files are missing, or names that do not pair.
    """
    given = [name for name, value in (("classes", classes), ("colours", colours), ("max_depth", max_depth))
             if value is not None]  # fmt: skip
    if len(given) != 1:
        raise ConfigError(
            f"data set folder: got {' and '.join(given) or 'none of them'}; give either `classes` or "
            "`colours` (segmentation) or `max_depth` (depth, m)."
        )
    naming = Naming(image=image_name, truth=truth_name)
    if lists is not None:
        pairs, base = _listed(root, split, lists, images, truths, naming, nested=nested, shares=shares)
    else:
        truths = truths or ("{split}/masks" if max_depth is None else "{split}/depth")
        base, targets = _places(root, split, images, truths, shared=shares is not None)
        pairs = paired(base, targets, naming, nested=nested, skip=unpaired == "skip")
    if shares is not None:
        pairs = part(pairs, split, shares, base=base, seed=seed)
    if max_depth is not None:
        return DenseDataset(pairs, Depth(scale=scale, most=max_depth))
    return DenseDataset(pairs, labels_of(classes, colours, ignored, labels, palette))


def _listed(
    root: Path,
    split: str,
    lists: str,
    images: str,
    truths: str | None,
    naming: Naming,
    *,
    nested: bool,
    shares: dict[str, float] | None,
) -> tuple[list[Pair], Path]:
    """The pairs of a list, and the folder from which their names are seen."""
    if ("{split}" in lists) == (shares is not None):
        raise ConfigError(
            "data set folder: `lists` names one list for each split, with {split} in its name, or one for "
            "all with `shares: {train: 0.8, val: 0.1, test: 0.1}`."
        )
    source, targets = (text.replace("{split}", split) for text in (images, truths or "masks"))
    path = root / lists.replace("{split}", split)
    return listed_pairs(path, root, source, targets, naming, nested=nested), root


def _places(root: Path, split: str, images: str, truths: str, *, shared: bool) -> tuple[Path, Path]:
    """Folders of images and truths of a split, or of all splits that share one."""
    if shared and "{split}" in images + truths:
        raise ConfigError(
            "data set folder: `shares` is for files of all splits in one folder; leave it out, or {split} in "
            "`images` and `truths`."
        )
    if not shared and "{split}" not in images:
        raise ConfigError(
            "data set folder: `images` names one folder for all splits: put {split} into it, or add "
            "`shares: {train: 0.8, val: 0.1, test: 0.1}`."
        )
    if images.startswith("{split}/"):
        folder(root / split, "images and masks or depth")
    source, targets = (root / text.replace("{split}", split) for text in (images, truths))
    return source, targets
