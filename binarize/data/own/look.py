"""Looking at a folder of images and one of truths: all that a recipe has to say of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from binarize.data.dataset import Pair
from binarize.data.files import IMAGES, hidden, pictures
from binarize.data.own.class_names import Colour, NamedClasses, find_names
from binarize.data.own.classes import Classes, find_classes
from binarize.data.own.depths import DepthRange, find_range
from binarize.data.own.layout import Layout, find_layout
from binarize.data.own.names import guess_naming
from binarize.data.pairing import Matches, Naming, matched
from binarize.data.reading import read_depth_values, read_head, read_labels, read_palette
from binarize.data.shares import counts
from binarize.errors import DataError

MASKS = 1000
"""Masks that are read at most; of more, evenly spread ones."""

_DEPTHS = 48
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
        found = {"classes": list(truth.names), "labels": truth.labels, "ignored": list(truth.ignored)}
        return {**self.options(), **found}

    def options(self) -> dict[str, Any]:
        """Those that say where files lie and how they pair, as far as they differ from the defaults."""
        layout, naming = self.layout, self.naming
        depth = isinstance(self.truth, DepthRange)
        found: dict[str, Any] = {"images": layout.images, "truths": layout.truths}
        if found == {"images": "{split}/images", "truths": f"{{split}}/{'depth' if depth else 'masks'}"}:
            found = {}
        found |= {"nested": True} if layout.nested else {}
        found |= {"image_name": naming.image} if naming.image != "{}" else {}
        found |= {"truth_name": naming.truth} if naming.truth != "{}" else {}
        found |= {"unpaired": "skip"} if self.without_truth else {}
        if not layout.splits:
            found["shares"] = {name: SHARES[name] for name in self.images}
        return found


def look(
    images: Path,
    truths: Path,
    *,
    depth: bool,
    named: NamedClasses | None = None,
    scale: float | None = None,
    max_depth: float | None = None,
) -> Found:
    """Find out what images and their truths are; files are read, none is written.

    Args:
        images: folder of the images, of all splits or of one.
        truths: folder of masks or of depth maps.
        depth: whether they are depth maps.
        named: the classes, if the user names them.
        scale: units per metre of depth files, if known.
        max_depth: largest depth, m, if known.

    Raises:
        DataError: a folder is missing, no image has a truth, too few have one, or a file cannot be read.
    """
    layout = find_layout(images, truths)
    splits = list(layout.splits.values()) or [""]
    naming = _naming(layout, splits)
    found = {split: matched(*layout.folders(split), naming, nested=layout.nested) for split in splits}
    pairs = {split: matches.pairs for split, matches in found.items()}
    _check_pairs(layout, found, naming)
    everything = [pair for part in pairs.values() for pair in part]
    if depth:
        chosen = spread(everything, _DEPTHS)
        maps = [read_depth_values(pair.target) for pair in chosen if pair.target is not None]
        truth: Classes | DepthRange = find_range(maps, scale, max_depth)
    else:
        chosen = spread(everything, MASKS)
        truth = _classes(chosen, named or find_names(_around(layout)))
    if layout.splits:
        number = {split: len(part) for split, part in pairs.items()}
    else:
        shares = SHARES if len(everything) >= len(SHARES) else {"train": 1.0}
        number = counts(shares, len(everything))
    return Found(
        layout=layout,
        naming=naming,
        images=number,
        without_truth=[path for m in found.values() for path in _alone(m)],
        without_image=[m.truths[key] for m in found.values() for key in m.without_image],
        sizes=_sizes(pair.image for pair in spread(everything, MASKS)),
        truth=truth,
        read=len(chosen),
    )


def _alone(matches: Matches) -> list[Path]:
    """Images without a truth, and those whose names are of another form."""
    return [*(matches.images[key] for key in matches.without_truth), *matches.unfit]


def spread(items: Sequence[Pair], most: int) -> list[Pair]:
    """All pairs, or `most` of them, evenly spread."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _naming(layout: Layout, splits: Sequence[str]) -> Naming:
    """From the names of the first split, which is that for training if there is one."""
    source, targets = layout.folders(splits[0])
    images, truths = (_stems(path, layout.nested) for path in (source, targets))
    together = source.resolve() == targets.resolve()
    return guess_naming(images, truths, together=together)


def _stems(path: Path, nested: bool) -> list[str]:
    if not nested:
        return [file.stem for file in pictures(path)]
    files = (p for p in path.rglob("*") if p.suffix.lower() in IMAGES and not hidden(p.relative_to(path)))
    return sorted({file.stem for file in files})


def _check_pairs(layout: Layout, found: dict[str, Matches], naming: Naming) -> None:
    """Refuse folders in which few images have a truth: another folder was meant, or names tell nothing."""
    pairs = sum(len(m.pairs) for m in found.values())
    images = sum(len(m.images) + len(m.unfit) for m in found.values())
    empty = next((split for split, m in found.items() if not m.pairs), None)
    if pairs and pairs >= images / 2 and empty is None:
        return
    split = empty or next(iter(found))
    source, targets = layout.folders(split)
    matches = found[split]
    total = len(matches.images) + len(matches.unfit)
    names = [f"{source.name}/{path.name}" for path in (*matches.images.values(), *matches.unfit)][:3]
    others = [f"{targets.name}/{path.name}" for path in list(matches.truths.values())[:3]] or ["none"]
    raise DataError(
        f"{source}: {len(matches.pairs)} of {total} images have a truth in {targets} (names tried: "
        f"{naming.image} and {naming.truth}). The images are {', '.join(names)}...; the truths "
        f"{', '.join(others)}... Is it the right folder? Names that differ by more than a beginning and an "
        "end have to be changed."
    )


def _classes(pairs: Sequence[Pair], named: NamedClasses | None) -> Classes:
    counts: Counter[int] = Counter()
    palette: dict[int, Colour] = {}
    for pair in pairs:
        if pair.target is None:
            continue
        values, number = np.unique(read_labels(pair.target).numpy(), return_counts=True)
        counts.update(dict(zip(values.tolist(), number.tolist(), strict=True)))
        palette = palette or read_palette(pair.target)
    return find_classes(counts, named, palette)


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
