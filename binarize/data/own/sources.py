"""Which files of the user's are pairs: by two folders, or by lists of files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from binarize.data.dataset import Pair
from binarize.data.files import IMAGES, hidden, pictures
from binarize.data.lists import has_pairs, listed_pairs
from binarize.data.own.layout import Layout, find_layout
from binarize.data.own.list_files import Lists, find_lists, lists_near
from binarize.data.own.names import guess_naming
from binarize.data.pairing import Matches, Naming, matched
from binarize.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Source:
    """Pairs of files, and where they are from.

    Attributes:
        layout: which folders, or which lists, are for what.
        naming: how names pair.
        pairs: of each split; of the only one, whose name is empty, if the files are in no splits.
        without_truth: images that have none.
        without_image: truths that have none.
    """

    layout: Layout
    naming: Naming
    pairs: dict[str, list[Pair]]
    without_truth: list[Path] = field(default_factory=list)
    without_image: list[Path] = field(default_factory=list)


def find_source(images: Path | None, truths: Path | None, lists: Path | None = None) -> Source:
    """The pairs of two folders, or those that lists name.

    Where the folders have no splits, lists of them are looked for beside the images: train.txt,
    ImageSets/Segmentation/val.txt.

    Args:
        images: folder of the images, of all splits or of one; None for a list that has paths of both.
        truths: folder of masks or of depth maps; likewise.
        lists: a list of one split, or the folder of the lists.

    Raises:
        DataError: a folder or a list is missing, no image has a truth, or too few have one.
    """
    if lists is not None:
        return _by_lists(find_lists(lists), images, truths)
    if images is None or truths is None:
        raise DataError("no folders of images and truths, and no list of both.")
    layout = find_layout(images, truths)
    if not layout.splits:
        for near in lists_near(layout):
            try:
                return _by_lists(near, images, truths)
            except DataError:  # of other files
                continue
    return _by_folders(layout)


def _by_folders(layout: Layout) -> Source:
    splits = list(layout.splits.values()) or [""]
    naming = _naming(layout, splits)
    found = {split: matched(*layout.folders(split), naming, nested=layout.nested) for split in splits}
    _check_pairs(layout, found, naming)
    return Source(
        layout=layout,
        naming=naming,
        pairs={split: matches.pairs for split, matches in found.items()},
        without_truth=[path for m in found.values() for path in _alone(m)],
        without_image=[m.truths[key] for m in found.values() for key in m.without_image],
    )


def _by_lists(lists: Lists, images: Path | None, truths: Path | None) -> Source:
    first = lists.path(next(iter(lists.splits.values()), ""))
    if has_pairs(first):
        layout = lists.layout()
        naming = Naming()
    elif images is None or truths is None:
        raise DataError(
            f"{first}: its lines name images alone; expected `image truth` on each line, or --images DIR and "
            "--masks DIR (or --depth DIR) beside the list."
        )
    else:
        folders = find_layout(images, truths, splits=False)
        layout = lists.layout(folders)
        naming = _naming(layout, [""])
    pairs = {}
    for split in list(lists.splits.values()) or [""]:
        form = (lists.path(split), layout.root, layout.images, layout.truths, naming)
        pairs[split] = listed_pairs(*form, nested=layout.nested)
    return Source(layout=layout, naming=naming, pairs=pairs)


def _alone(matches: Matches) -> list[Path]:
    """Images without a truth, and those whose names are of another form."""
    return [*(matches.images[key] for key in matches.without_truth), *matches.unfit]


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
