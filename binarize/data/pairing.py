"""Which truth belongs to which image, by their names."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from binarize.data.dataset import Pair
from binarize.data.files import IMAGES, folder, hidden, pictures
from binarize.errors import ConfigError, DataError, warn

_PLACE = "{}"


@dataclass(frozen=True, kw_only=True)
class Naming:
    """How the names of an image and of its truth are made from what both share, without the endings.

    Attributes:
        image: `{}` stands for the shared part: `{}_leftImg8bit`.
        truth: likewise: `{}_gtFine_labelIds`.
    """

    image: str = _PLACE
    truth: str = _PLACE

    def __post_init__(self) -> None:
        for name, text in (("image_name", self.image), ("truth_name", self.truth)):
            if text.count(_PLACE) != 1:
                raise ConfigError(
                    f"data set folder: {name}: {text!r}: expected one {{}}, which stands for what the names "
                    "of an image and its truth share, as in '{}_mask'."
                )

    def image_key(self, stem: str) -> str | None:
        """What an image's name shares with its truth's; None for a name of another form."""
        return _inner(self.image, stem)

    def truth_key(self, stem: str) -> str | None:
        """Likewise of a truth's name."""
        return _inner(self.truth, stem)


def _inner(form: str, stem: str) -> str | None:
    before, _, after = unicodedata.normalize("NFC", form).partition(_PLACE)
    if len(stem) <= len(before) + len(after) or not (stem.startswith(before) and stem.endswith(after)):
        return None
    return stem[len(before) : len(stem) - len(after)]


@dataclass(frozen=True)
class Matches:
    """Files by what their names share: those of a pair have one key.

    Attributes:
        images: by their keys.
        truths: likewise.
        unfit: images whose names have another form.
    """

    images: dict[str, Path]
    truths: dict[str, Path]
    unfit: tuple[Path, ...] = ()

    @property
    def pairs(self) -> list[Pair]:
        """Of the images that have a truth."""
        return [Pair(path, self.truths[key]) for key, path in self.images.items() if key in self.truths]

    @property
    def without_truth(self) -> list[str]:
        """Keys of images."""
        return [key for key in self.images if key not in self.truths]

    @property
    def without_image(self) -> list[str]:
        """Keys of truths."""
        return [key for key in self.truths if key not in self.images]


def matched(source: Path, targets: Path, naming: Naming, *, nested: bool = False) -> Matches:
    """The images and truths of two folders, or of one that holds both.

    Args:
        source: folder of the images.
        targets: folder of the truths.
        naming: of both; accents count in any spelling.
        nested: whether folders inside are looked through; pairs lie at the same place in both then.

    Raises:
        DataError: a folder is missing, there is no image, or two files have one name.
    """
    images = _found(folder(source, "images"), nested)
    truths = _found(folder(targets, "the truth"), nested)
    true = _by_name(targets, truths, naming.truth_key)
    taken = set(true.values()) if naming.truth != _PLACE or source.resolve() != targets.resolve() else set()
    images = [path for path in images if path not in taken]  # of one folder, or one in the other
    if not images:
        raise DataError(f"{source}: no image in this folder ({', '.join(IMAGES)}).")
    found = _by_name(source, images, naming.image_key)
    there = set(found.values())
    return Matches(found, true, tuple(path for path in images if path not in there))


def paired(
    source: Path,
    targets: Path,
    naming: Naming | None = None,
    *,
    nested: bool = False,
    skip: bool = False,
) -> list[Pair]:
    """Images and the truths with the same names, whatever the endings; warns of truths without an image.

    Args:
        source: folder of the images.
        targets: folder of the truths.
        naming: how names differ; equal ones by default.
        nested: as in `matched`.
        skip: leave images without a truth out, with a warning; else they are an error.

    Raises:
        DataError: a folder is missing or empty, two files have one name, or an image has no truth.
    """
    naming = naming or Naming()
    found = matched(source, targets, naming, nested=nested)
    alone, unused = found.without_truth, found.without_image
    others = f"{len(unused)} of {len(found.truths)} truths have no image"
    if alone:
        first = found.images[alone[0]].name
        text = f"{source}: {len(alone)} of {len(found.images)} images have no truth, first {first}"
        looked = f"Looked for {naming.truth.replace(_PLACE, alone[0])} in {targets}"
        if not skip or len(alone) == len(found.images):
            more = f"; {others}, first {found.truths[unused[0]].name}" if unused else ""
            raise DataError(f"{text}{more}. {looked}, with any of the endings {', '.join(IMAGES)}.")
        warn(f"{text}; they are left out. {looked}.")
    if found.unfit:
        warn(
            f"{source}: {len(found.unfit)} files have no name of the form {naming.image}, first "
            f"{found.unfit[0].name}; they are left out."
        )
    if unused:
        shown = found.truths[unused[0]].name
        wanted = "of their name" if naming == Naming() else naming.image.replace(_PLACE, unused[0])
        warn(f"{targets}: {others} {wanted} in {source}, first {shown}; they are left out.")
    return found.pairs


def _found(path: Path, nested: bool) -> list[Path]:
    if not nested:
        return pictures(path)
    inner = (p for p in path.rglob("*") if p.is_dir() and not hidden(p.relative_to(path)))
    return [file for each in sorted([path, *inner]) for file in pictures(each)]


def _by_name(base: Path, paths: Sequence[Path], key: Callable[[str], str | None]) -> dict[str, Path]:
    """Files by what they share with others, with accents in one spelling (NFC)."""
    found: dict[str, Path] = {}
    for path in paths:
        inner = key(unicodedata.normalize("NFC", path.stem))
        if inner is None:
            continue
        place = path.parent.relative_to(base).as_posix()
        name = inner if place == "." else f"{place}/{inner}"
        if (other := found.setdefault(name, path)) != path:
            raise DataError(
                f"{path.parent}: {other.name} and {path.name} have one name: it is unclear which of them "
                "belongs to the other file of the pair. Move one away."
            )
    return found
