"""At initialisation a converted network neither amplifies nor starves its signal.

Measured with batch statistics (training mode): an untrained BatchNorm does not normalise in evaluation mode,
so that a float network's own scale decays from stage to stage there and is not a yardstick.
"""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from binarize.graph import apply

STAGES = {
    "convnext_tiny": [f"stages.{i}" for i in range(4)],
    "resnet50": [f"layer{i}" for i in range(1, 5)],
    "efficientnet_b0": [f"blocks.{i}" for i in range(7)],
}


def stage_scales(model: nn.Module, stages: list[str], x: Tensor) -> list[float]:
    scales: list[float] = []

    def note(module: nn.Module, args: Any, output: Tensor) -> None:
        scales.append(float(output.square().mean().sqrt()))

    hooks = [model.get_submodule(name).register_forward_hook(note) for name in stages]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return scales


@pytest.mark.parametrize(
    "method",
    [
        "bidense",
        pytest.param("reactnet", marks=pytest.mark.slow),
        pytest.param("adabin", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    "name", [n if n == "convnext_tiny" else pytest.param(n, marks=pytest.mark.slow) for n in STAGES]
)
def test_stage_outputs_stay_within_a_factor_of_ten_of_float(name: str, method: str) -> None:
    net = timm.create_model(name).train()
    x = torch.randn(4, 3, 96, 96)
    expected = stage_scales(net, STAGES[name], x)
    seen = stage_scales(apply(net, method, example_inputs=x[:1]), STAGES[name], x)
    for stage, ours, theirs in zip(STAGES[name], seen, expected, strict=True):
        assert 0.1 < ours / theirs < 10, f"{stage}: {ours:.3g} against {theirs:.3g}"


def test_keeping_the_sums_around_bypassed_branches_doubles_the_signal_per_block() -> None:
    net = timm.create_model("convnext_tiny").train()
    x = torch.randn(2, 3, 64, 64)
    expected = stage_scales(net, ["stages.3"], x)[0]
    model = apply(net, residual="keep", scale="none", example_inputs=x[:1])  # exp(a (M - 1)) would overflow
    kept = stage_scales(model, ["stages.3"], x)[0]
    assert kept / expected > 1000


@pytest.mark.slow
def test_evaluation_before_training_is_sane_where_norms_are_fresh() -> None:
    net = timm.create_model("convnext_tiny").eval()
    x = torch.randn(2, 3, 64, 64)
    expected = stage_scales(net, STAGES["convnext_tiny"], x)
    for method in ("bidense", "bnn"):
        seen = stage_scales(apply(net, method, example_inputs=x[:1]), STAGES["convnext_tiny"], x)
        assert all(0.1 < a / b < 10 for a, b in zip(seen, expected, strict=True))
