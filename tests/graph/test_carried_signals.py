"""Layers that make a signal, or alone carry one whose sum was dropped, keep their bypass."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binarize.graph import LayerPlan, plan


def rows(net: nn.Module, size: tuple[int, int]) -> dict[str, LayerPlan]:
    made = plan(net, "bidense", example_inputs=torch.zeros(2, 3, *size))
    return {row.name: row for row in made.rows}


class Attention(nn.Module):
    """Multiplies two of its maps: what it returns does not carry its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Conv2d(width, width, 1)
        self.value = nn.Conv2d(width, width, 1)
        self.proj = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(torch.softmax(self.gate(x), 1) * self.value(x))


class Stages(nn.Module):
    """A transition, and right behind it a block with an outer sum that must stay."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.transition = nn.Conv2d(8, 16, 2, stride=2)
        self.norm = nn.BatchNorm2d(16)
        self.block = Attention(16)
        self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.transition(torch.relu(self.stem(x))))
        x = x + self.block(x)
        return self.fc(x.mean((2, 3)))


def test_a_transition_in_front_of_a_sum_keeps_its_bypass() -> None:
    seen = rows(Stages(), (32, 32))
    assert seen["transition"].bypass == "CFB up"
    assert (seen["block.proj"].bypass, seen["block.proj"].bypass_reason) == (
        "none",
        "the sum that stays is its bypass",
    )


class Two(nn.Module):
    """x + f(x) + g(y): the sum around f is dropped, so f alone carries x; y is another signal."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.other = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.f = nn.Conv2d(8, 8, 3, padding=1)
        self.g1 = nn.Conv2d(8, 8, 3, padding=1)
        self.g2 = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.relu(self.stem(x)), torch.relu(self.other(x))
        y = (self.f(a) + a) + self.g2(F.relu(self.g1(b)))
        return self.fc(F.relu(y).mean((2, 3)))


def test_what_carries_a_dropped_sum_keeps_its_bypass_beside_other_signals() -> None:
    seen = rows(Two(), (16, 16))
    assert (seen["f"].residual, seen["f"].bypass) == ("outer sum dropped", "identity")
    assert seen["g2"].bypass == "none"  # it is added to the signal that f carries


def test_projection_shortcuts_still_leave_theirs_out() -> None:
    seen = rows(timm.create_model("test_resnet"), (32, 32))
    assert seen["layer2.0.conv2"].bypass == "identity"
    assert seen["layer2.0.downsample.1"].bypass == "none"


@pytest.mark.slow
def test_transitions_of_a_hierarchical_transformer_carry_the_signal() -> None:
    net = timm.create_model("pvt_v2_b0", depths=(1, 1, 1, 1), embed_dims=(8, 16, 40, 64), num_classes=3)
    seen = rows(net, (64, 64))
    assert [seen[f"stages.{i}.downsample.proj"].bypass for i in (1, 2, 3)] == [
        "CFB up",
        "CFB mixed",
        "CFB mixed",
    ]
