"""Learning rates against PyTorch's own schedule."""

from __future__ import annotations

import pytest
import torch

from binarize.recipes.schema import Schedule
from binarize.training.learning_rate import rate


@pytest.mark.parametrize("per", ["epoch", "step"])
@pytest.mark.parametrize(("epochs", "steps"), [(10, 3), (50, 1), (7, 4), (3, 1)])
def test_one_cycle(per: str, epochs: int, steps: int) -> None:
    schedule = Schedule.model_validate({"per": per})
    total = epochs if per == "epoch" else epochs * steps
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], 1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1e-3, total_steps=total, pct_start=0.3, div_factor=25, final_div_factor=1e4
    )
    for position in range(total):
        expected = optimizer.param_groups[0]["lr"]
        step = position * steps + (steps - 1) if per == "epoch" else position
        got = rate(schedule, 1e-3, step, steps_per_epoch=steps, epochs=epochs)
        assert got == pytest.approx(expected, rel=1e-9)
        optimizer.step()
        if position + 1 < total:
            reference.step()


def test_constant_and_a_single_step() -> None:
    assert rate(Schedule(name="constant"), 0.1, 5, steps_per_epoch=2, epochs=9) == 0.1
    assert rate(Schedule(), 0.1, 0, steps_per_epoch=1, epochs=1) > 0
