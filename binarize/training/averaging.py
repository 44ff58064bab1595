"""The decay of the moving average of the weights: small at first, so that short runs forget their start."""

from __future__ import annotations

from binarize.recipes.schema import Training

_POWER = 2 / 3
_SHARE = 5
"""A run should be this many times as long as its average reaches back."""


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
    """What is to be said of an average that reaches back too far for a run of so many steps; None if nothing.

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
