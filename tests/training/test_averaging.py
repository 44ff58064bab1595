"""Moving averages of weights in runs of any length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_net import values
from timm.utils.model_ema import ModelEmaV3
from torch import nn

from binarize import recipes
from binarize.errors import BinarizeWarning
from binarize.recipes.schema import Training
from binarize.training.averaging import MovingAverage, averaging_warning, decay_at
from binarize.training.loop import train


def settings(**given: Any) -> Training:
    return Training.model_validate({"epochs": 1, "batch": 4, "lr": 1e-3, **given})


def test_the_decay_warms_up_as_timms_does() -> None:
    reference = ModelEmaV3(nn.Linear(1, 1), decay=0.99, use_warmup=True)
    chosen = settings(ema=0.99)
    for step in (0, 1, 2, 10, 500, 999, 1000, 5000):
        assert decay_at(chosen, step) == pytest.approx(reference.get_decay(step + 1), rel=1e-12)
    assert decay_at(settings(ema=0.99, ema_warmup=False), 0) == 0.99


def test_the_average_of_a_short_run_forgets_its_start() -> None:
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 100.0)
    plain, warm = MovingAverage(net), MovingAverage(net)
    for step in range(60):
        nn.init.constant_(net.weight, 1.0)
        plain.follow(decay_at(settings(ema=0.999, ema_warmup=False), step))
        warm.follow(decay_at(settings(ema=0.999), step))
    assert float(plain.tensors["weight"]) > 90
    assert float(warm.tensors["weight"]) == pytest.approx(1.0)


def test_an_average_that_reaches_back_too_far_is_reported() -> None:
    assert averaging_warning(settings(), 10) is None
    assert averaging_warning(settings(ema=0.999), 5000) is None
    assert averaging_warning(settings(ema=0.5), 3) is None  # nothing shorter is worth naming
    assert "warm-up holds it down, to 0.978 at the end" in str(averaging_warning(settings(ema=0.999), 300))
    held = str(averaging_warning(settings(ema=0.999, ema_warmup=False), 300))
    assert "averages over about 1,000 steps, and this run has 300" in held
    assert "training.ema=0.983, or training.ema_warmup=true" in held


def test_a_run_reports_it_before_its_first_step(tmp_path: Path) -> None:
    chosen = recipes.validate(values(ema=0.999, epochs=1), "a test")
    with pytest.warns(BinarizeWarning, match="averages over about 1,000 steps"):
        train(chosen, tmp_path / "run")
