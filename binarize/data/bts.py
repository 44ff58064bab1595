"""NYUv2 and KITTI depth in the layout of BTS (Lee et al., arXiv 1907.10326), by its file lists.

A line of a list is `image depth focal`; a depth of `None` is for an image without a truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from binarize.data.catalog import register_dataset
from binarize.data.dataset import DenseDataset, Depth, Pair
from binarize.data.files import columns, existing, place

# Eigen et al. (NeurIPS 2014): rows 45 to 471 and columns 41 to 601 of 480x640.
EIGEN = (45 / 480, 471 / 480, 41 / 640, 601 / 640)
# Garg et al. (ECCV 2016), as fractions of the image.
GARG = (0.40810811, 0.99189189, 0.03594771, 0.96405229)

NYU = Depth(scale=1000.0, most=10.0, crop=EIGEN)
KITTI = Depth(scale=256.0, most=80.0, crop=GARG)


@register_dataset(
    "nyuv2",
    task="depth",
    splits=("train", "test"),
    folders=("NYUv2_BTS", "nyu_depth_v2"),
    layout="sync/<scene>, official_splits/test/<scene>, nyudepthv2_{train,test}_files_with_gt.txt",
    terms="NYU Depth V2 (Silberman, Hoiem, Kohli, Fergus, ECCV 2012): published for research; cite it.",
)
def nyuv2(root: Path, split: str) -> DenseDataset:
    """24,231 training frames and the 654 test frames.

    Raises:
        DataError: a list, or a file of it, is missing.
    """
    source = root / f"nyudepthv2_{split}_files_with_gt.txt"
    base = root / ("sync" if split == "train" else "official_splits/test")
    return DenseDataset(_pairs(source, (base,), (base,)), NYU)


@register_dataset(
    "nyuv2-397",
    task="depth",
    splits=("train", "val", "test"),
    folders=("nyuv2", "nyuv2-397"),
    layout="train.txt, val.txt, test.txt (lines `image depth focal`) and official_splits",
    terms="NYU Depth V2 (Silberman, Hoiem, Kohli, Fergus, ECCV 2012), the 902 labelled frames whose scale is "
    "known: published for research; cite it. Figures are comparable on these frames only.",
)
def nyuv2_397(root: Path, split: str) -> DenseDataset:
    """The frames of the labelled set whose scale is known: 450, 55, 397. Not comparable with tables of NYUv2.

    Raises:
        DataError: a list, or a file of it, is missing.
    """
    return DenseDataset(_pairs(root / f"{split}.txt", (root,), (root,)), NYU)


@register_dataset(
    "kitti",
    task="depth",
    splits=("train", "test"),
    folders=("KITTI_BTS", "kitti"),
    layout="kitti_dataset/<date>, data_depth_annotated/<drive>, eigen_{train,test}_files_with_gt.txt",
    terms="KITTI (Geiger, Lenz, Stiller, Urtasun, IJRR 2013; CC BY-NC-SA 3.0): non-commercial use; cite it.",
)
def kitti(root: Path, split: str) -> DenseDataset:
    """The split of Eigen; images without truth are left out, as by BTS (652 of 697 test images remain).

    Raises:
        DataError: a list, or a file of it, is missing.
    """
    source = root / f"eigen_{split}_files_with_gt.txt"
    depth = root / "data_depth_annotated"
    raw = root / "kitti_dataset"
    return DenseDataset(_pairs(source, (raw, raw / "raw"), (depth, depth / "train", depth / "val")), KITTI)


def _pairs(source: Path, images: Sequence[Path], depths: Sequence[Path]) -> list[Pair]:
    found = []
    for image, depth, *_ in columns(source, (2, 3)):
        if depth != "None":
            found.append(Pair(_first(images, image), _first(depths, depth)))
    return existing(found, source)


def _first(folders: Sequence[Path], name: str) -> Path:
    """The file in the first folder that has it; if none has, its path in the first one, for the message."""
    paths = [place(folder, name) for folder in folders]
    return paths[0] if len(paths) == 1 else next((p for p in paths if p.is_file()), paths[0])
