"""ADE20K, the scene parsing benchmark: 150 classes (Zhou et al., CVPR 2017).

The files count classes from 1; 0 is "other". Networks have 151 outputs so that ids stay what they are; output
0 has no training target, and no mean counts it.
"""

from __future__ import annotations

import csv
from pathlib import Path

from binarize.data.catalog import register_dataset
from binarize.data.dataset import DenseDataset, Labels
from binarize.data.files import inside, text
from binarize.data.pairing import paired

_CLASSES = 150
_FOLDERS = {"train": "training", "val": "validation"}


@register_dataset(
    "ade20k",
    task="segmentation",
    splits=("train", "val"),
    folders=("ade20k", "ADE20K", "ADEChallengeData2016"),
    layout="images/{training,validation}/*.jpg and annotations/{training,validation}/*.png",
    terms="ADE20K (Zhou et al., CVPR 2017; IJCV 2019): images for non-commercial research, annotations "
    "BSD 3-clause; cite it.",
)
def ade20k(root: Path, split: str) -> DenseDataset:
    """ADEChallengeData2016 in `root`, or in a folder of that name there.

    Raises:
        DataError: a folder or a file is missing.
    """
    base = inside(root, "ADEChallengeData2016")
    source = base / "images" / _FOLDERS[split]
    masks = base / "annotations" / _FOLDERS[split]
    return DenseDataset(paired(source, masks), Labels(names=_names(base), ignored=(0,), unscored=(0,)))


def _names(base: Path) -> tuple[str, ...]:
    """From the set's own table if it exists."""
    table = base / "objectInfo150.csv"
    if table.is_file():
        rows = [row for row in csv.DictReader(text(table).splitlines()) if row.get("Name")]
        if len(rows) == _CLASSES:
            return ("other", *(row["Name"].split(";")[0] for row in rows))
    return ("other", *(f"class {i}" for i in range(1, _CLASSES + 1)))
