"""Mixup and CutMix: a batch mixed with itself, images and targets alike."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from binarize.recipes.schema import Training


class Mixing:
    """Mixes each step's images by torchvision's MixUp or CutMix, drawn by seed and step alone.

    So a run that continues mixes as it would have. All processes draw the same shares; an image is mixed with
    another one of its own process.

    Args:
        settings: `mixup`, `cutmix` and `seed`.
        classes: number of them.
    """

    def __init__(self, settings: Training, classes: int) -> None:
        ways = ((v2.MixUp, settings.mixup), (v2.CutMix, settings.cutmix))
        self._ways = [make(alpha=alpha, num_classes=classes) for make, alpha in ways if alpha]
        self._seed = settings.seed

    def __call__(self, images: Tensor, targets: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Images (N, 3, H, W) float32 on the CPU and their mixed targets (N, classes) float32.

        Args:
            images: of this process, (N, 3, H, W).
            targets: class ids (N,) int64.
            step: counted from 0 over all epochs.
        """
        numbers = np.random.SeedSequence((self._seed, step, 1)).generate_state(2)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(numbers[0]))
            return self._ways[int(numbers[1]) % len(self._ways)](images, targets)


def create_mixing(settings: Training, classes: int) -> Mixing | None:
    """What mixes batches; None if the recipe asks for nothing of the kind."""
    return Mixing(settings, classes) if settings.mixup or settings.cutmix else None
