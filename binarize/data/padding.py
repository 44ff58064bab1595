"""Training images that are smaller than the crop, whose rest is filled with grey."""

from __future__ import annotations

from typing import Any

from binarize.data.dataset import DenseDataset
from binarize.data.findings import Finding
from binarize.data.reading import read_head
from binarize.data.survey import has_files
from binarize.errors import DataError

_READ = 1000  # images whose sizes are read at most


def padded(data: DenseDataset, where: str, augmentation: dict[str, Any]) -> Finding | None:
    """The finding for a data set all of whose images are smaller than the crop; None if one is not.

    Args:
        data: the training split.
        where: its name in the message: "camvid train".
        augmentation: arguments of `transforms.training_transform`.
    """
    if not has_files(data) or not len(data):
        return None
    size, largest = augmentation["size"], (0, 0)
    for pair in data.pairs[:: max(1, len(data) // _READ)]:
        try:
            width, height = read_head(pair.image).size
        except DataError:  # has its own message
            return None
        height, width = at_most((height, width), augmentation)
        if height >= size[0] and width >= size[1]:
            return None
        largest = max(largest, (height, width), key=lambda s: s[0] * s[1])
    return Finding(
        "padded",
        f"{where}: every image is smaller than the crop, data.augmentation.size [{size[0]}, {size[1]}]: at "
        f"most {largest[0]}x{largest[1]} (height x width) when it is cropped. The rest is grey and has no "
        "truth. Take a smaller size, or data.augmentation.resize or long_side to enlarge the images.",
    )


def at_most(size: tuple[int, int], augmentation: dict[str, Any]) -> tuple[int, int]:
    """The largest (height, width) that an image of a size can have before it is cropped."""
    height, width = size
    if (border := augmentation.get("border")) is not None:
        height, width = border[1] - border[0], border[3] - border[2]
    height, width = augmentation.get("bottom") or (height, width)
    height, width = augmentation.get("resize") or (height, width)
    factor = (augmentation.get("scale") or (1.0, 1.0))[1]
    if (long_side := augmentation.get("long_side")) is not None:
        factor *= long_side / max(height, width)
    return round(height * factor), round(width * factor)
