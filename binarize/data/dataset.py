"""What truths mean, and pairs of an image and a truth for every pixel of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision import tv_tensors

from binarize.data.classes import Classes
from binarize.data.labels import IGNORE, Labels, Task
from binarize.data.reading import read_depth, read_head, read_image
from binarize.data.samples import Sample, SampleDataset, Transform
from binarize.errors import DataError

__all__ = [
    "IGNORE",
    "DenseDataset",
    "Depth",
    "Labels",
    "Pair",
    "Task",
    "Truth",
    "sizes_differ",
    "truth_as_json",
    "truth_from_json",
]


@dataclass(frozen=True, kw_only=True)
class Depth:
    """What the truth of a depth data set means.

    Attributes:
        scale: units of the files per metre.
        least: smallest depth (m) that counts.
        most: largest.
        crop: the part that evaluation uses, (top, bottom, left, right) as fractions of the image; empty for
            all.
    """

    scale: float
    least: float = 1e-3
    most: float
    crop: tuple[float, ...] = ()

    task: Task = field(default="depth", init=False)

    @property
    def counted(self) -> str:
        """Which depths evaluation counts, in words."""
        text = f"depths from {self.least:g} to {self.most:g} m"
        if not self.crop:
            return text
        top, bottom, left, right = (f"{100 * part:.1f}" for part in self.crop)
        return f"{text}, in rows {top} to {bottom} % and columns {left} to {right} % of the image"

    def read(self, path: Path) -> Tensor:
        """Depth (H, W) float32 in metres, 0 where there is none.

        Raises:
            DataError: the file cannot be read.
        """
        return read_depth(path, self.scale)


Truth = Labels | Depth | Classes
"""What the truth of a data set means: a type for each task."""


def truth_as_json(truth: Truth) -> str:
    """As text for a file's header; the inverse of `truth_from_json`."""
    return json.dumps(dataclasses.asdict(truth))


def truth_from_json(text: str) -> Truth:
    """The inverse of `truth_as_json`.

    Raises:
        KeyError, TypeError, ValueError: the text is not from `truth_as_json`.
    """
    fields = json.loads(text)
    task = fields.pop("task")
    if task == "depth":
        return Depth(**{**fields, "crop": tuple(fields["crop"])})
    if task == "classification":
        return Classes(names=tuple(fields["names"]))
    return Labels(
        names=tuple(fields["names"]),
        palette=tuple((int(r), int(g), int(b)) for r, g, b in fields["palette"]),
        ignored=tuple(fields["ignored"]),
        unscored=tuple(fields["unscored"]),
        mapping=tuple((int(value), int(label)) for value, label in fields.get("mapping", ())),
        values=tuple(map(int, fields.get("values", ()))),
        coloured=bool(fields.get("coloured", False)),
    )


class Pair(NamedTuple):
    """Files of an image and of its truth; no truth where there is none."""

    image: Path
    target: Path | None


class DenseDataset(SampleDataset):
    """Images with a truth for every pixel, each in a file.

    Args:
        pairs: the files.
        truth: what the truth means.
        transform: makes the network's input and target from image (3, H, W) uint8 and truth.
        seed: of the transform's random choices.
    """

    truth: Labels | Depth

    def __init__(
        self,
        pairs: Sequence[Pair],
        truth: Labels | Depth,
        *,
        transform: Transform | None = None,
        seed: int = 0,
    ) -> None:
        self.pairs = tuple(pairs)
        self.truth = truth
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.pairs)

    def load(self, index: int) -> Sample:
        """The sample as in its files; a missing truth is unknown everywhere.

        Raises:
            DataError: a file cannot be read, or image and truth are of different sizes.
        """
        pair = self.pairs[index]
        image = read_image(pair.image)
        if pair.target is None:
            nothing = torch.full(image.shape[1:], IGNORE) if self.truth.task == "segmentation" else None
            return Sample(image, torch.zeros(image.shape[1:]) if nothing is None else nothing)
        target = self.truth.read(pair.target)
        if target.shape != image.shape[1:]:
            sizes = [(t.shape[-1], t.shape[-2]) for t in (image, target)]
            raise sizes_differ(pair.image, sizes[0], pair.target, sizes[1])
        return Sample(image, target)

    def target(self, index: int) -> Tensor:
        """The truth of `load` alone, for counting.

        Raises:
            DataError: the file cannot be read.
        """
        pair = self.pairs[index]
        return self.load(index).target if pair.target is None else self.truth.read(pair.target)

    def name(self, index: int) -> str:
        """The path of the image."""
        return str(self.pairs[index].image)

    def apply(self, transform: Transform, sample: Sample) -> Sample:
        """The sample through a transform of both."""
        return Sample(*transform(tv_tensors.Image(sample.image), tv_tensors.Mask(sample.target)))


def sizes_differ(image: Path, size: tuple[int, int], target: Path, other: tuple[int, int]) -> DataError:
    """The error for an image and a truth of different sizes (width, height)."""
    one, two = read_head(image).orientation, read_head(target).orientation
    why = ""
    if (one >= 5) != (two >= 5):
        tagged, plain = ("image", "truth") if one >= 5 else ("truth", "image")
        why = (
            f": the {tagged}'s EXIF orientation {max(one, two)} turns it upright, the {plain} has no such "
            f"tag. Turn the {plain}, or remove the tag from the {tagged}, whichever makes them fit"
        )
    return DataError(
        f"{target}: {other[0]}x{other[1]} (width x height), but its image {image} is "
        f"{size[0]}x{size[1]}{why}."
    )
