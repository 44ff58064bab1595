"""Information entropy of binary activations (BiDense, arXiv 2411.10346, Equation 2, Figures 3 and 6d).

Of the activations of one channel behind a binarization, p is the share of the upper value:

    H = -p log2(p) - (1 - p) log2(1 - p)    bits, 0 for a constant channel, 1 for p = 1/2

(the paper writes ln: 1 bit is 0.69 of that). With K bits per activation, H = -sum_l p_l log2(p_l) over its
2^K levels, at most K bits.

The paper calls it "average channel-wise" and shows its distribution "for all inputs": here H is computed for
each image and channel over the positions of that channel, then averaged over the channels of a layer. This
gives one number for each image and layer (`Entropy.per_image`). The other reading, p over all images, is
`Entropy.pooled`, one number for each channel; it is never below the mean over images (since H is concave).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from binarize.inspect.binarizers import Binarizer, find_binarizers
from binarize.inspect.running import Batch, Report, run_batches


@dataclass(frozen=True, kw_only=True)
class Entropy:
    """Entropies of the binary activations of one network.

    Attributes:
        layers: paths of the binarizers, in the order of their first calls; the first one is Figure 6d's.
        bits: of each one's activations, the largest entropy there can be.
        per_image: (images, layers) float64, bits: mean over channels of the entropy within one image. NaN
            where a layer was not called for that image.
        pooled: (C,) float64 for each layer, bits: entropy of each channel over all images together.
        upper: (C,) float64 for each layer: share of activations above the lowest level.
        positions: (layers,) float64: of a channel within one image. With a single one, as behind a pooling of
            the whole map, `per_image` is 0 whatever the network does.
        skipped: paths of layers whose activations could not be split by image.
    """

    layers: tuple[str, ...]
    bits: tuple[int, ...]
    per_image: np.ndarray
    pooled: tuple[np.ndarray, ...]
    upper: tuple[np.ndarray, ...]
    positions: np.ndarray
    skipped: tuple[str, ...] = ()

    @property
    def means(self) -> np.ndarray:
        """(layers,) float64, bits: mean over the images."""
        return np.nanmean(self.per_image, axis=0)

    @property
    def dead(self) -> tuple[int, ...]:
        """For each layer, how many channels had one value only in all images (pooled entropy 0)."""
        return tuple(int((channels == 0).sum()) for channels in self.pooled)


def entropy(model: nn.Module, batches: Iterable[Batch], *, report: Report | None = None) -> Entropy:
    """The entropy of a network's binary activations.

    Counts are kept, not activations: the memory does not grow with the number of positions.

    Args:
        model: converted or packed; runs in evaluation mode, its mode is restored.
        batches: images (N, 3, H, W) as the network takes them, alone or with truths.
        report: called with the number of images done.

    Raises:
        ConfigError: no images.
    """
    counters = [_Counter(binarizer) for binarizer in find_binarizers(model)]
    called: dict[str, _Counter] = {}

    def hooks(size: Callable[[], int]) -> Iterator[RemovableHandle]:
        for counter in counters:
            yield counter.binarizer.module.register_forward_pre_hook(counter.hook(size, called))

    def batch_by_batch() -> Iterator[Batch]:
        for batch in batches:
            yield batch
            for counter in counters:
                counter.end_batch()

    images = run_batches(model, batch_by_batch(), hooks, report)
    found = [counter for counter in called.values() if counter.levels is not None and not counter.mixed]
    per_image = np.full((images, len(found)), np.nan)
    for column, counter in enumerate(found):
        rows = np.concatenate(counter.rows)
        per_image[: len(rows), column] = rows
    totals = [counter.levels for counter in found if counter.levels is not None]
    return Entropy(
        layers=tuple(counter.binarizer.name for counter in found),
        bits=tuple(counter.binarizer.bits for counter in found),
        per_image=per_image,
        pooled=tuple(entropy_of_counts(t).numpy() for t in totals),
        upper=tuple((1.0 - t[:, 0] / t.sum(1)).numpy() for t in totals),
        positions=np.array([float(t[0].sum()) / images for t in totals]),
        skipped=tuple(counter.binarizer.name for counter in called.values() if counter.mixed),
    )


class _Counter:
    """Counts of the levels of one binarizer's activations."""

    def __init__(self, binarizer: Binarizer) -> None:
        self.binarizer = binarizer
        self.levels: Tensor | None = None  # (C, levels), of all images
        self.rows: list[np.ndarray] = []  # mean entropy of each image
        self.mixed = False
        self._batch: Tensor | None = None  # (images, C, levels), of the running batch, of all calls

    def hook(self, size: Callable[[], int], called: dict[str, _Counter]) -> Any:
        """A forward pre-hook; `size` gives the images of the batch, `called` notes the order of calls."""

        def look(module: nn.Module, args: Any) -> None:
            called.setdefault(self.binarizer.name, self)
            codes = self.binarizer.codes(args[self.binarizer.argument].detach())
            counts = level_counts(self.binarizer, codes, size())
            if counts is None:
                self.mixed = True
                return
            self._batch = counts if self._batch is None else self._batch + counts

        return look

    def end_batch(self) -> None:
        """All calls of a batch are counted."""
        if self._batch is None:
            return
        self.rows.append(entropy_of_counts(self._batch).mean(1).numpy())
        total = self._batch.sum(0)
        self.levels = total if self.levels is None else self.levels + total
        self._batch = None


def level_counts(binarizer: Binarizer, codes: Tensor, images: int) -> Tensor | None:
    """How often each level occurs: (images, C, levels) float64 on the CPU; see `Binarizer.per_channel`."""
    parted = binarizer.per_channel(codes, images)
    if parted is None:
        return None
    if binarizer.bits == 1:  # one pass, not two
        ones = parted.sum(1).double().cpu()
        return torch.stack([parted.shape[1] - ones, ones], -1)
    return torch.stack([(parted == level).sum(1).double().cpu() for level in range(2**binarizer.bits)], -1)


def entropy_of_counts(counts: Tensor) -> Tensor:
    """Bits of the distributions in the last dimension, which the result does not have."""
    return torch.special.entr(counts / counts.sum(-1, keepdim=True)).sum(-1) / math.log(2.0)
