"""The moving average of the weights; its decay is small at first, so that short runs forget their start."""

from __future__ import annotations

import torch
from torch import nn

from binarize.recipes.schema import Training
from binarize.training.dtensor import local_part

_POWER = 2 / 3
_SHARE = 5
"""A run should be this many times as long as its average reaches back."""


class MovingAverage:
    """A moving average of every trained parameter.

    Args:
        net: whose parameters are averaged; the average starts with their values.

    Attributes:
        tensors: by name of the parameter, of its shape, dtype and split.
    """

    def __init__(self, net: nn.Module) -> None:
        self._net = net
        self.tensors = {n: p.detach().clone() for n, p in net.named_parameters() if p.requires_grad}

    def to(self, device: torch.device) -> None:
        """Move the average to a device."""
        self.tensors = {name: tensor.to(device) for name, tensor in self.tensors.items()}

    def follow(self, decay: float) -> None:
        """Mix in the present weights: decay * average + (1 - decay) * weight."""
        with torch.no_grad():
            for name, parameter in self._net.named_parameters():
                if name in self.tensors:
                    local_part(self.tensors[name]).lerp_(local_part(parameter), 1.0 - decay)


def decay_at(settings: Training, step: int) -> float:
    """The share of the average that stays at a step: `ema`, and with `ema_warmup` less than that at first.

    min(ema, 1 - (1 + t)^(-2/3)), with t = 0 at the second step; the first step's weights are taken as they
    are (timm's ModelEmaV3 with `use_warmup`, after K. Crowson): 0.9 is reached after 31 steps, 0.99 after
    1,000, 0.999 after 31,600.

    Args:
        settings: with `ema`.
        step: counted from 0 over all epochs.
    """
    decay = settings.ema or 0.0
    return min(decay, 1.0 - (1.0 + step) ** -_POWER) if settings.ema_warmup else decay


def averaging_warning(settings: Training, steps: int) -> str | None:
    """A warning of an average that reaches back too far for a run of this many steps; None if it does not.

    An average with decay d weighs about the last 1 / (1 - d) steps.
    """
    if settings.ema is None:
        return None
    reach = 1.0 / (1.0 - settings.ema)
    fits = max(1.0 - _SHARE / steps, 0.5)
    if settings.ema <= fits:
        return None
    fitting = f"{fits:.3g}"
    text = f"training.ema={settings.ema} averages over about {reach:,.0f} steps, and this run has {steps:,}"
    if settings.ema_warmup:
        last = decay_at(settings, steps - 1)
        return f"{text}: warm-up holds it down, to {last:.3g} at the end. training.ema={fitting} would fit."
    return (
        f"{text}: the model that is evaluated and kept stays near its start values. "
        f"Take training.ema={fitting}, or training.ema_warmup=true."
    )
