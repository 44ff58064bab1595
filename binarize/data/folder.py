"""Your own data: a folder of images and one of masks or depth maps, paired by their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from binarize.data.catalog import register_dataset
from binarize.data.dataset import IGNORE, DenseDataset, Depth, Labels
from binarize.data.files import folder
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
    classes: list[str] | int | None = None,
    ignored: list[int] | None = None,
    labels: dict[int, int] | None = None,
    palette: list[list[int]] | None = None,
    scale: float = 1000.0,
    max_depth: float | None = None,
    images: str = "{split}/images",
    truths: str | None = None,
    image_name: str = "{}",
    truth_name: str = "{}",
    nested: bool = False,
    unpaired: Literal["error", "skip"] = "error",
    shares: dict[str, float] | None = None,
    seed: int = 0,
) -> DenseDataset:
    """Pairs by file name without its ending.

    Args:
        root: of the data set.
        split: name of a folder in it, or one of `shares`.
        classes: names, or how many; for segmentation.
        ignored: values of the masks that do not count; 255 by default, [] for none.
        labels: class ids for values of the masks, {0: 0, 255: 1}; other values are ids themselves.
        palette: (R, G, B) per class.
        scale: of the depth files, units per metre.
        max_depth: largest depth that counts, in metres; for depth.
        images: folder of the images in `root`, where {split} stands for the split's name.
        truths: likewise of the truths; {split}/masks or {split}/depth by default.
        image_name: of an image without its ending, where {} stands for what it shares with its truth's.
        truth_name: likewise of a truth: `{}_mask`.
        nested: whether files lie in folders inside these, at the same places in both.
        unpaired: whether an image without a truth is an error, or is left out with a warning.
        shares: of each split, {train: 0.8, val: 0.1, test: 0.1}, where files of all splits lie in one folder.
        seed: of the choice by `shares`.

    Raises:
        ConfigError: neither or both of `classes` and `max_depth` are given, or labels that are not classes.
        DataError: folders or files are missing, or names that do not pair.
    """
    if (classes is None) == (max_depth is None):
        raise ConfigError("data set folder: give either `classes` (segmentation) or `max_depth` (depth, m).")
    truths = truths or ("{split}/masks" if max_depth is None else "{split}/depth")
    source, targets = _places(root, split, images, truths, shared=shares is not None)
    naming = Naming(image=image_name, truth=truth_name)
    pairs = paired(source, targets, naming, nested=nested, skip=unpaired == "skip")
    if shares is not None:
        pairs = part(pairs, split, shares, base=source, seed=seed)
    if max_depth is not None:
        return DenseDataset(pairs, Depth(scale=scale, most=max_depth))
    return DenseDataset(pairs, _labels(classes, ignored, labels or {}, palette))


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


def _labels(
    classes: Any, ignored: list[int] | None, mapping: dict[int, int], palette: list[list[int]] | None
) -> Labels:
    names = tuple(f"class {i}" for i in range(classes)) if isinstance(classes, int) else tuple(classes)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"data set folder: classes: {twice[0]!r} is given twice; names must differ.")
    if not 1 <= len(names) <= 255:
        raise ConfigError(f"data set folder: {len(names)} classes; expected 1 to 255: 255 is ignored.")
    if len(names) == 1:
        raise ConfigError(
            "data set folder: 1 class; there is nothing to distinguish. The background is a class too: "
            "`classes: 2`, and for masks of 0 and 255 `labels: {0: 0, 255: 1}`."
        )
    colours = tuple((int(r), int(g), int(b)) for r, g, b in palette or ())
    if colours and len(colours) != len(names):
        raise ConfigError(f"data set folder: {len(colours)} colours for {len(names)} classes.")
    for value, label in mapping.items():
        if not (0 <= label < len(names) or label == IGNORE):
            raise ConfigError(
                f"data set folder: labels: {{{value}: {label}}}: expected a class id from 0 to "
                f"{len(names) - 1}, or {IGNORE} for pixels to ignore."
            )
    return Labels(
        names=names,
        palette=colours,
        ignored=tuple(ignored) if ignored is not None else (IGNORE,),
        mapping=tuple(sorted(mapping.items())),
    )
