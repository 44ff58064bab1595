"""Your own data: a folder of images and one of masks or depth maps with the same names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from binarize.data.catalog import register_dataset
from binarize.data.dataset import DenseDataset, Depth, Labels, Pair
from binarize.data.files import IMAGES, existing, folder, images
from binarize.errors import ConfigError, DataError


@register_dataset(
    "folder",
    task=None,
    splits=(),
    folders=("folder",),
    layout="<split>/images and <split>/masks (class ids) or <split>/depth (16 bits)",
)
def folders(
    root: Path,
    split: str,
    *,
    classes: list[str] | int | None = None,
    ignored: list[int] | None = None,
    palette: list[list[int]] | None = None,
    scale: float = 1000.0,
    max_depth: float | None = None,
) -> DenseDataset:
    """Pairs by file name without its ending.

    Args:
        root: of the data set.
        split: name of a folder in it.
        classes: names, or how many; for segmentation.
        ignored: values of the masks that say nothing.
        palette: (R, G, B) per class.
        scale: of the depth files, units per metre.
        max_depth: largest depth that counts, in metres; for depth.

    Raises:
        ConfigError: neither or both of `classes` and `max_depth` are given.
        DataError: folders or files are missing, or an image has no truth of its name.
    """
    if (classes is None) == (max_depth is None):
        raise ConfigError("data set folder: give either `classes` (segmentation) or `max_depth` (depth, m).")
    base = folder(root / split, "images and masks or depth")
    targets = {
        p.stem: p
        for p in sorted(folder(base / ("masks" if max_depth is None else "depth"), "the truth").iterdir())
        if p.suffix.lower() in IMAGES
    }
    found = images(base / "images")
    alone = [p.name for p in found if p.stem not in targets]
    if alone:
        raise DataError(f"{base}: {len(alone)} of {len(found)} images have no truth, first {alone[0]}.")
    pairs = existing((Pair(p, targets[p.stem]) for p in found), base)
    if max_depth is not None:
        return DenseDataset(pairs, Depth(scale=scale, most=max_depth))
    return DenseDataset(pairs, _labels(classes, ignored, palette))


def _labels(classes: Any, ignored: list[int] | None, palette: list[list[int]] | None) -> Labels:
    names = tuple(f"class {i}" for i in range(classes)) if isinstance(classes, int) else tuple(classes)
    if not 1 <= len(names) <= 255:
        raise ConfigError(f"data set folder: {len(names)} classes; a mask tells 1 to 255, 255 says nothing.")
    colours = tuple((int(r), int(g), int(b)) for r, g, b in palette or ())
    if colours and len(colours) != len(names):
        raise ConfigError(f"data set folder: {len(colours)} colours for {len(names)} classes.")
    return Labels(names=names, palette=colours, ignored=tuple(ignored) if ignored is not None else (255,))
