"""Samples by index or by epoch and index: what every data set is to the training."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from binarize.data.dataset import Truth

Self = TypeVar("Self", bound="SampleDataset")


class Sample(NamedTuple):
    """An image (3, H, W) and its truth: class ids (H, W) int64, or metres (H, W) float32."""

    image: Tensor
    target: Tensor


Transform = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class SampleDataset(Dataset[Sample]):
    """Samples by index, or by (epoch, index).

    The random choices of the transform depend on seed, epoch and index only: not on the process that loads
    the sample, nor on samples loaded before. So a run that is resumed, or spread over processes, sees the
    same images.

    Attributes:
        truth: what the truth means.
        transform: makes the network's input and target from image (3, H, W) uint8 and truth.
        seed: of the transform's random choices.
    """

    truth: Truth
    transform: Transform | None = None
    seed: int = 0

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def load(self, index: int) -> Sample:
        """The sample before its transform.

        Raises:
            DataError: its files cannot be read or do not fit together.
        """

    @abstractmethod
    def target(self, index: int) -> Tensor:
        """The truth of `load` alone, for counting.

        Raises:
            DataError: the file cannot be read.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call the sample in messages: the path of its image."""

    def apply(self, transform: Transform, sample: Sample) -> Sample:
        """The sample through a transform."""
        return Sample(*transform(*sample))

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        sample = self.load(index)
        if self.transform is None:
            return sample
        # as torch.manual_seed and fork_rng do, which take longer than the transform of a small image
        generator = torch.default_generator
        before = generator.get_state()
        generator.manual_seed(int(np.random.SeedSequence((self.seed, epoch, index)).generate_state(1)[0]))
        try:
            return self.apply(self.transform, sample)
        finally:
            generator.set_state(before)

    def with_transform(self: Self, transform: Transform | None, seed: int = 0) -> Self:
        """The same samples through another transform."""
        changed = object.__new__(type(self))
        changed.__dict__.update(self.__dict__, transform=transform, seed=seed)
        return changed
