"""PASCAL VOC 2012 segmentation: 20 classes and background (Everingham et al., IJCV 2015).

`trainaug` is the train split with the annotations of SBD (Hariharan et al., ICCV 2011), without the images
of `val`. There is no `trainval`: a network trained on it would be evaluated on training images in `val`.
"""

from __future__ import annotations

from pathlib import Path

from binarize.data.catalog import register_dataset
from binarize.data.dataset import DenseDataset, Labels, Pair
from binarize.data.files import existing, folder, inside, lines, place

_NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train"),
    "tvmonitor",
)
_LISTS = {
    "train": ("train",),
    "trainaug": ("trainaug", "train_aug"),
    "val": ("val",),
}


@register_dataset(
    "voc2012",
    task="segmentation",
    splits=("train", "trainaug", "val"),
    folders=("voc2012", "VOC2012", "VOC", "VOCdevkit"),
    layout="JPEGImages, SegmentationClass (SegmentationClassAug for trainaug), ImageSets/Segmentation/*.txt",
    terms="PASCAL VOC 2012 (Everingham et al., IJCV 2010): images under Flickr's terms of use; cite it.",
)
def voc2012(root: Path, split: str) -> DenseDataset:
    """VOC2012 in `root`, or in VOCdevkit/VOC2012 or VOC2012 there.

    Raises:
        DataError: a folder, a list or a file is missing.
    """
    base = inside(inside(root, "VOCdevkit"), "VOC2012")
    masks = "SegmentationClassAug" if split == "trainaug" else "SegmentationClass"
    folder(base / masks, f"the masks of {split}")
    sets = base / "ImageSets" / "Segmentation"
    names = _LISTS[split]
    chosen = next(
        (sets / f"{n}.txt" for n in names if (sets / f"{n}.txt").is_file()), sets / f"{names[0]}.txt"
    )
    stems = [Path(line.split()[-1].replace("\\", "/")).stem for line in lines(chosen).values()]
    pairs = (
        Pair(place(base / "JPEGImages", f"{stem}.jpg"), place(base / masks, f"{stem}.png")) for stem in stems
    )
    return DenseDataset(existing(pairs, chosen), Labels(names=_NAMES, palette=palette(len(_NAMES))))


def palette(count: int) -> tuple[tuple[int, int, int], ...]:
    """VOC's colours of ids: the bits of an id, three at a time, fill R, G and B from the highest bit."""
    return tuple(_colour(index) for index in range(count))


def _colour(index: int) -> tuple[int, int, int]:
    channels = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            channels[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
    return channels[0], channels[1], channels[2]
