"""Statistics of a BatchNorm over many batches, exact whatever their sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from binarize.layers.training_state import processes

_DEAD = 1e-12
"""Variance of a channel, in relation to its squared mean, below which it is the same for all images."""


@dataclass(frozen=True, kw_only=True)
class NormChange:
    """How the statistics of a BatchNorm changed.

    Attributes:
        name: of the module.
        shift: mean over channels of |new mean - old mean| / new standard deviation.
        ratio: geometric mean over channels of new / old variance.
        channels: how many it has.
        dead: how many of them are the same for all images.
    """

    name: str
    shift: float
    ratio: float
    channels: int
    dead: int

    @property
    def size(self) -> float:
        """One number for how much changed."""
        return self.shift + abs(math.log(self.ratio)) if self.ratio > 0 else math.inf

    def __str__(self) -> str:
        text = f"{self.name}: means moved by {self.shift:.3g} deviations, variances times {self.ratio:.3g}"
        return text + (f", {self.dead} of {self.channels} channels are dead" if self.dead else "")


class Statistics:
    """Mean and variance of all inputs of a BatchNorm; its running statistics follow them at the end."""

    def __init__(self, norm: Any) -> None:
        self._norm = norm
        self._kept = {n: b.clone() for n, b in norm.named_buffers(recurse=False)}
        self._momentum = norm.momentum
        self.count = 0.0
        self._mean = self._squares = torch.zeros(())
        norm.reset_running_stats()
        norm.momentum = (
            1.0  # what it runs through is the batch's own: whatever its layout, it knows the channels
        )
        norm.train()
        self._handle = norm.register_forward_hook(self._see)

    def _see(self, module: Any, args: Any, output: Any) -> None:
        n = args[0].numel() / len(module.running_mean) * processes()
        mean = module.running_mean.double()
        squares = module.running_var.double() * (n - 1)
        total = self.count + n
        apart = mean - self._mean
        self._squares = self._squares + squares + apart.square() * (self.count * n / total)
        self._mean = self._mean + apart * (n / total)
        self.count = total

    def stop(self) -> None:
        """Leave the statistics in the norm; those from before if it was never called."""
        norm = self._norm
        self._handle.remove()
        norm.momentum = self._momentum
        norm.eval()
        for name, buffer in self._kept.items():
            norm.get_buffer(name).copy_(buffer)
        if self.count > 1:
            norm.running_mean.copy_(self._mean)
            norm.running_var.copy_(self._squares / (self.count - 1))

    def change(self, name: str) -> NormChange:
        """From what the norm had before."""
        mean, variance = self._mean, self._squares / max(1.0, self.count - 1)
        dead = int((variance <= _DEAD * (1.0 + mean.square())).sum())
        old = self._kept["running_var"].double().clamp_min(1e-12)
        shift = (mean - self._kept["running_mean"]).abs() / (variance + self._norm.eps).sqrt()
        ratio = (variance.clamp_min(1e-12) / old).log().mean().exp()
        return NormChange(
            name=name, shift=float(shift.mean()), ratio=float(ratio), channels=mean.numel(), dead=dead
        )
