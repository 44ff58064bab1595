"""Which images a step sees: the same ones for any number of processes, and after a resumption."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from binarize.errors import DataError


class Batches(Sampler[list[tuple[int, int]]]):
    """Lists of (epoch, index), each this process's part of a step's images.

    Every epoch has its own order, by seed and epoch. The last images of an epoch, too few for a batch, are
    left out; if all are too few, they are repeated.

    Args:
        length: of the data set.
        batch: images per step, of all processes together.
        seed: of the order.
        rank: which process this is.
        world: of how many.
    """

    def __init__(self, length: int, batch: int, seed: int, *, rank: int = 0, world: int = 1) -> None:
        self._length, self._batch, self._seed = length, batch, seed
        self._part = slice(rank * batch // world, (rank + 1) * batch // world)
        self.epoch = 0
        self.first = 0

    @property
    def steps(self) -> int:
        """Steps of a whole epoch."""
        return max(1, self._length // self._batch)

    def start(self, epoch: int, step: int = 0) -> None:
        """Give the batches of this epoch from this step on."""
        self.epoch, self.first = epoch, step

    def __len__(self) -> int:
        return self.steps - self.first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self.epoch)
        order = torch.randperm(self._length, generator=generator).tolist()
        while len(order) < self._batch:
            order += order
        for step in range(self.first, self.steps):
            chosen = order[step * self._batch : (step + 1) * self._batch]
            yield [(self.epoch, index) for index in chosen[self._part]]


def read_batches(loader: DataLoader[Any]) -> Iterator[Any]:
    """The batches of a loader; an error in a loading process comes without that process's traceback.

    Raises:
        DataError: a file cannot be read.
    """
    try:
        yield from loader
    except DataError as error:
        raise DataError(str(error).strip().rpartition("DataError: ")[2]) from None
