"""Losses of segmentation, depth and classification."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binarize.data.dataset import IGNORE, Depth
from binarize.training.distributed import all_sum


class SegmentationLoss(nn.Module):
    """Mean cross entropy over the pixels that count, of all processes' images; 0 if none does.

    Args:
        weights: how much the pixels of each class count (classes,), one each if none; the mean is weighted.
    """

    def __init__(self, weights: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("weights", weights)
        self.weights: Tensor | None

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """One number.

        Args:
            output: logits (N, classes, H, W).
            target: class ids (N, H, W) int64, `IGNORE` where they do not count.
        """
        total = F.cross_entropy(output.float(), target, self.weights, ignore_index=IGNORE, reduction="sum")
        known = target != IGNORE
        if self.weights is None:
            return all_sum(total) / all_sum(known.sum().float()).clamp_min(1)
        mass = all_sum(torch.where(known, self.weights[torch.where(known, target, 0)], 0.0).sum())
        return all_sum(total) / torch.where(mass > 0, mass, 1.0)


class ClassificationLoss(nn.Module):
    """Mean cross entropy over the images of all processes, with smoothed targets if asked.

    With targets t (N, C), a single 1 or a mixture, and smoothing e: t' = (1 - e) t + e / C, and the loss is
    sum_nc -w_c t'_nc log p_nc / sum_nc w_c t_nc (Szegedy et al., arXiv 1512.00567, Section 7; w all 1).

    Args:
        smoothing: e.
        weights: how much the images of each class count (classes,), one each if none.
    """

    def __init__(self, smoothing: float = 0.0, weights: Tensor | None = None) -> None:
        super().__init__()
        self.smoothing = smoothing
        self.register_buffer("weights", weights)
        self.weights: Tensor | None

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """One number.

        Args:
            output: logits (N, classes).
            target: class ids (N,) int64, or shares of the classes (N, classes) float32.
        """
        total = F.cross_entropy(
            output.float(), target, self.weights, reduction="sum", label_smoothing=self.smoothing
        )
        mass = torch.full_like(total, len(target))
        if self.weights is not None:
            mass = (self.weights[target] if target.dim() == 1 else target @ self.weights).sum()
        return all_sum(total) / all_sum(mass)


class SiLog(nn.Module):
    """10 sqrt(mean d^2 - lambda (mean d)^2), d = ln p - ln t over the valid pixels of a batch.

    Of all processes' images. Eigen et al. (2014), scaled as in BTS (arXiv 1907.10326), whose lambda is 0.85.

    Args:
        depth: of the data set: which truths count.
        ratio: lambda.
    """

    def __init__(self, depth: Depth, ratio: float = 0.85) -> None:
        super().__init__()
        self.least, self.most = depth.least, depth.most
        self.ratio = ratio

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """One number.

        Args:
            output: metres (N, 1, H, W).
            target: metres (N, H, W), 0 where there is none.
        """
        valid = (target > self.least) & (target <= self.most)
        d = output.float().clamp_min(self.least).squeeze(1).log() - target.clamp_min(self.least).log()
        d = torch.where(valid, d, 0.0)  # where nothing is valid, 0 with a gradient of 0
        sums = all_sum(torch.stack([d.sum(), d.square().sum(), valid.sum().to(d)]))
        mean, square = sums[:2] / sums[2].detach().clamp_min(1)
        # the root has no gradient at 0, which a perfect prediction reaches
        return 10.0 * (square - self.ratio * mean.square()).clamp_min(1e-12).sqrt()
