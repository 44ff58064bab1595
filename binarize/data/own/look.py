"""Looking at a folder of images and one of truths: all that a recipe has to say of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from binarize.data.dataset import Pair
from binarize.data.labels import IGNORE, Colour
from binarize.data.own.class_names import NamedClasses, find_names
from binarize.data.own.classes import Classes, find_classes
from binarize.data.own.depths import DepthRange, find_range
from binarize.data.own.layout import Layout
from binarize.data.own.sources import find_source
from binarize.data.pairing import Naming
from binarize.data.reading import read_colours, read_depth_values, read_head, read_labels, read_palette
from binarize.data.shares import counts
from binarize.errors import DataError

MASKS = 1000
"""Masks that are read at most; of more, evenly spread ones."""

_DEPTHS = 48
_PALETTES = 50  # palettes that are compared
SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}
"""How files of one folder are split."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What lies in two folders.

    Attributes:
        layout: which folders are for what.
        naming: how names pair.
        images: number of pairs of each split.
        without_truth: images that have none.
        without_image: truths that have none.
        sizes: how many images have which (height, width).
        truth: classes or depths.
        read: number of truths that were read for this.
    """

    layout: Layout
    naming: Naming
    images: dict[str, int]
    without_truth: list[Path]
    without_image: list[Path]
    sizes: Counter[tuple[int, int]]
    truth: Classes | DepthRange
    read: int

    @property
    def roles(self) -> dict[str, str]:
        """Name of the split for each of `train`, `val` and `test` that there is."""
        return self.layout.splits or {name: name for name in self.images}

    def all_options(self) -> dict[str, Any]:
        """Options of the data set `folder` that read this data."""
        truth = self.truth
        if isinstance(truth, DepthRange):
            return {**self.options(), "scale": truth.scale, "max_depth": truth.most}
        return {**self.options(), **truth.options()}

    def options(self) -> dict[str, Any]:
        """Those that say where files lie and how they pair, as far as they differ from the defaults."""
        layout, naming = self.layout, self.naming
        depth = isinstance(self.truth, DepthRange)
        found: dict[str, Any] = {"lists": layout.lists} if layout.lists else {}
        if layout.lists and not layout.images:  # they have paths of both
            return found if layout.splits else {**found, "shares": self._shares()}
        found |= {"images": layout.images, "truths": layout.truths}
        if found == {"images": "{split}/images", "truths": f"{{split}}/{'depth' if depth else 'masks'}"}:
            found = {}
        found |= {"nested": True} if layout.nested else {}
        found |= {"image_name": naming.image} if naming.image != "{}" else {}
        found |= {"truth_name": naming.truth} if naming.truth != "{}" else {}
        found |= {"unpaired": "skip"} if self.without_truth else {}
        if not layout.splits:
            found["shares"] = self._shares()
        return found

    def _shares(self) -> dict[str, float]:
        return {name: SHARES[name] for name in self.images}


def look(
    images: Path | None,
    truths: Path | None,
    *,
    depth: bool | None = None,
    lists: Path | None = None,
    named: NamedClasses | None = None,
    scale: float | None = None,
    max_depth: float | None = None,
) -> Found:
    """Find out what images and their truths are; files are read, none is written.

    Args:
        images: folder of the images, of all splits or of one; None for a list that has paths of both.
        truths: folder of masks or of depth maps; likewise.
        depth: whether they are depth maps; None to look at one.
        lists: a list of the pairs, or of the images, of one split, or the folder of the lists.
        named: the classes, if the user names them.
        scale: units per metre of depth files, if known.
        max_depth: largest depth, m, if known.

    Raises:
        DataError: a folder or list is missing, no image has a truth, too few have one, a file cannot be
            read, or no depth counts.
    """
    source = find_source(images, truths, lists)
    layout = source.layout
    everything = [pair for part in source.pairs.values() for pair in part]
    if depth is None:
        depth = _are_depths(everything[0])
    if depth:
        chosen = spread(everything, _DEPTHS)
        maps = [read_depth_values(pair.target) for pair in chosen if pair.target is not None]
        truth: Classes | DepthRange = find_range(maps, scale, max_depth)
        if truth.low > truth.most:
            raise DataError(
                f"no depth counts: they are {truth.low:.3g} to {truth.high:.3g} m (scale {truth.scale:g}), "
                f"and only depths to {truth.most:g} m shall count. Are --max-depth and --scale right?"
            )
    else:
        chosen = spread(everything, MASKS)
        given = named or find_names(_around(layout))
        truth = _classes(chosen, given, complete=len(chosen) == len(everything))
    if layout.splits:
        number = {split: len(part) for split, part in source.pairs.items()}
    else:
        shares = SHARES if len(everything) >= len(SHARES) else {"train": 1.0}
        number = counts(shares, len(everything))
    return Found(
        layout=layout,
        naming=source.naming,
        images=number,
        without_truth=source.without_truth,
        without_image=source.without_image,
        sizes=_sizes(pair.image for pair in spread(everything, MASKS)),
        truth=truth,
        read=len(chosen),
    )


def spread(items: Sequence[Pair], most: int) -> list[Pair]:
    """All pairs, or `most` of them, evenly spread."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _are_depths(pair: Pair) -> bool:
    """Whether a truth of which nothing is said holds depths: numbers of more than 8 bits, many of them."""
    if pair.target is None or read_head(pair.target).white == 255:
        return False
    return len(np.unique(read_depth_values(pair.target))) > IGNORE + 1


def _classes(pairs: Sequence[Pair], named: NamedClasses | None, *, complete: bool) -> Classes:
    masks = [pair.target for pair in pairs if pair.target is not None]
    coloured = hold_colours(masks)
    counts: Counter[int] = Counter()
    palette: dict[int, Colour] = {}
    for mask in masks:
        read = read_colours(mask) if coloured else read_labels(mask)
        values, number = np.unique(read.numpy(), return_counts=True)
        counts.update(dict(zip(values.tolist(), number.tolist(), strict=True)))
        palette = palette or ({} if coloured else read_palette(mask))
    return find_classes(counts, named, palette, coloured=coloured, complete=complete)


def hold_colours(masks: Sequence[Path]) -> bool:
    """Whether masks say their classes by colours: they have three channels, or palettes that differ."""
    heads = [read_head(mask) for mask in masks]
    if any(head.mode in ("RGB", "RGBA") for head in heads):
        return True
    if len(masks) < 2 or any(head.mode != "P" for head in heads):
        return False
    used = [_used_colours(mask) for mask in masks[:_PALETTES]]
    merged: dict[int, Colour] = {}
    for colours in used:
        if any(merged.setdefault(value, colour) != colour for value, colour in colours.items()):
            return True
    return False


def _used_colours(mask: Path) -> dict[int, Colour]:
    """The colours of the values that a palette image holds."""
    palette = read_palette(mask)
    values = np.unique(read_labels(mask).numpy()).tolist()
    return {value: palette[value] for value in values if value in palette}


def _around(layout: Layout) -> Iterable[Path]:
    """Folders in which a list of classes may lie."""
    split = next(iter(layout.splits.values()), "")
    for path in layout.folders(split)[::-1]:
        while path.is_relative_to(layout.root):
            yield path
            path = path.parent
    yield layout.root.parent


def _sizes(files: Iterable[Path]) -> Counter[tuple[int, int]]:
    heads = (read_head(path).size for path in files)
    return Counter((height, width) for width, height in heads)
