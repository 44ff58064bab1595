"""Whole images with a class each: what the truth means, where images lie, samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from binarize.data.samples import Sample, SampleDataset, Transform
from binarize.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Classes:
    """What the truth of a classification data set means.

    Attributes:
        names: of the classes, by id.
    """

    names: tuple[str, ...]

    task: Literal["classification"] = field(default="classification", init=False)


class Images(ABC):
    """Images by index, wherever they lie."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> Tensor:
        """(3, H, W) uint8.

        Raises:
            DataError: it cannot be read.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call it in messages: its path."""

    @abstractmethod
    def key(self, index: int) -> str:
        """What tells it from the others of its data set, wherever that lies: `cat/0001.jpg`."""

    @abstractmethod
    def take(self, indices: np.ndarray) -> Images:
        """Some of them, in that order."""


class MemoryImages(Images):
    """Decoded images of one size; processes that load samples share their memory where they are forked.

    Args:
        pixels: (N, 3, H, W) uint8.
        names: what to call them.
    """

    def __init__(self, pixels: Tensor, names: np.ndarray) -> None:
        self._pixels, self._names = pixels, names

    @classmethod
    def of(cls, images: Images) -> MemoryImages:
        """All of them, read now.

        Raises:
            DataError: one cannot be read, or they are of several sizes.
        """
        pixels = torch.zeros(0, 3, 0, 0, dtype=torch.uint8)
        for index in range(len(images)):
            image = images.read(index)
            if not index:
                pixels = torch.empty(len(images), *image.shape, dtype=torch.uint8)
            if image.shape != pixels.shape[1:]:
                sizes = [f"{t.shape[-1]}x{t.shape[-2]}" for t in (image, pixels)]
                raise DataError(
                    f"{images.name(index)}: {sizes[0]} (width x height), but {images.name(0)} is {sizes[1]}: "
                    "images of this data set are of one size. Data set image-folder takes any sizes."
                )
            pixels[index] = image
        return cls(pixels, np.array([images.name(index) for index in range(len(images))], dtype=object))

    def __len__(self) -> int:
        return len(self._pixels)

    def read(self, index: int) -> Tensor:
        """A copy of the image."""
        return self._pixels[index].clone()

    def name(self, index: int) -> str:
        """As given."""
        return str(self._names[index])

    def key(self, index: int) -> str:
        """Its name."""
        return self.name(index)

    def take(self, indices: np.ndarray) -> MemoryImages:
        """Some of them, copied."""
        return MemoryImages(self._pixels[torch.from_numpy(indices)], self._names[indices])


class ClassDataset(SampleDataset):
    """Whole images with a class each: (3, H, W) uint8 and an id () int64.

    Args:
        images: where they are.
        labels: class ids (N,) int64.
        truth: what they mean.
        transform: of the image; the id stays.
        seed: of the transform's random choices.
    """

    truth: Classes

    def __init__(
        self,
        images: Images,
        labels: Sequence[int] | np.ndarray,
        truth: Classes,
        *,
        transform: Transform | None = None,
        seed: int = 0,
    ) -> None:
        self.images = images
        self.labels = torch.as_tensor(np.asarray(labels, dtype=np.int64))
        self.truth = truth
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, index: int) -> Sample:
        """Image and class id."""
        return Sample(self.images.read(index), self.target(index))

    def target(self, index: int) -> Tensor:
        """The class id, () int64; nothing is read."""
        return self.labels[index]

    def name(self, index: int) -> str:
        """The path of the image."""
        return self.images.name(index)

    def counts(self) -> Tensor:
        """Images of each class, (classes,) int64."""
        return torch.bincount(self.labels, minlength=len(self.truth.names))
