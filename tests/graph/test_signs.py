"""Which layers see no negative values: functions, what passes signs on, and what does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binarize.graph import plan


class Between(nn.Module):
    """conv -> BN -> function -> the layer in question -> final layer."""

    def __init__(self, function: Callable[[Any], Tensor], channels: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        self.side = nn.Conv2d(3, 8, 3)
        self.function = function
        self.layer = nn.Conv2d(channels, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 2, 1)
        self.register_buffer("std", torch.tensor([0.2, 0.3]).repeat(4).view(1, 8, 1, 1))
        self.scale = nn.Parameter(torch.ones(1))
        self.shift = nn.Parameter(torch.linspace(-1, 1, 8).view(1, 8, 1, 1))
        self.frozen = nn.Parameter(torch.full((1,), 2.0), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        self.first = x  # what functions of two values take
        y = self.function(y) if self.function.__code__.co_argcount == 1 else self.function(y, self)  # type: ignore[attr-defined]
        return self.last(self.layer(y))


def seen(net: nn.Module, layer: str = "layer") -> tuple[tuple[int, int], ...]:
    made = plan(net, "bnn", example_inputs=torch.zeros(1, 3, 12, 12))
    return next(row.nonnegative for row in made.rows if row.name == layer)


def other(net: Any) -> Tensor:
    return net.side(net.first)


ALL = ((0, 8),)
NOT_NEGATIVE: list[Callable[..., Tensor]] = [
    lambda y: F.relu(y),
    lambda y: F.relu6(y),
    lambda y: F.softplus(y),
    lambda y: torch.sigmoid(y),
    lambda y: F.hardsigmoid(y),
    lambda y: y.exp(),
    lambda y: abs(y),
    lambda y: y.square(),
    lambda y: y * y,
    lambda y: y**2,
    lambda y: F.relu(y) ** 2,
    lambda y: F.relu(y) ** 1.5,
    lambda y: y * (y > 0),
    lambda y: (y >= 0).to(y.dtype) * y,
    lambda y: torch.where(y > 0, y, 0.0),
    lambda y: torch.where(y > 0, y, torch.zeros_like(y)),
    lambda y: y.masked_fill(y < 0, 0.0),
    lambda y: y.clamp(min=0),
    lambda y: torch.clamp(y, 0, 6),
    lambda y: y.clamp_min(0.1),
    lambda y: F.threshold(y, 0.0, 0.0),
    lambda y: F.hardtanh(y, 0.0, 6.0),
    lambda y: F.hardtanh(y, min_val=0.0),
    lambda y: y.softmax(1),
    lambda y: torch.linalg.vector_norm(y, dim=1, keepdim=True).expand_as(y),
    lambda y: (y.square().sum(1, keepdim=True) + 1e-6).sqrt().repeat(1, 8, 1, 1),
    lambda y: torch.maximum(y, torch.zeros_like(y)),
    lambda y: torch.maximum(y, torch.zeros(1)),
    lambda y: torch.max(y, torch.zeros(1)),
    lambda y: torch.maximum(y, torch.tensor(0.0)),
    lambda y: 1 - torch.sigmoid(y),
    lambda y: 1 / (1 + torch.exp(-y)),
    lambda y: torch.log1p(F.relu(y)),
    lambda y: F.gelu(F.relu(y)),
    # what passes signs on
    lambda y: F.pad(F.max_pool2d(F.relu(y), 3, 1), (1, 1, 1, 1)),
    lambda y: F.interpolate(F.avg_pool2d(F.relu(y), 2), size=y.shape[2:], mode="bilinear"),
    lambda y: F.dropout(F.relu(y), 0.5),
    lambda y: F.relu(y).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    lambda y: torch.cat([F.relu(y[:, :4]), y[:, 4:].abs()], 1),
    lambda y: torch.cat(F.relu(y).chunk(2, 1)[::-1], 1),
    lambda y: F.relu(y).mean((2, 3), keepdim=True) + y.abs(),
    lambda y: F.relu(y) * torch.sigmoid(y.mean((2, 3), keepdim=True)),
    lambda y, net: F.relu(y) + F.relu(other(net)),
    lambda y, net: F.relu(y) + 0.5 * other(net).sigmoid(),
    lambda y, net: F.relu(y) / net.std,
    lambda y, net: F.relu(y) * net.frozen,
    lambda y, net: F.relu(y) * net.scale,  # learnt: at the start
    lambda y, net: torch.maximum(F.relu(y), other(net)),
    lambda y, net: F.relu(y) @ F.relu(other(net)),
    lambda y: F.relu(y) / 4 - (-1.0),
    lambda y: F.relu(y, inplace=True).add_(1.0),
]
NEGATIVE: list[Callable[..., Tensor]] = [
    lambda y: y,
    lambda y: F.gelu(y),
    lambda y: F.leaky_relu(y),
    lambda y: torch.tanh(y),
    lambda y: -F.relu(y),
    lambda y: F.relu(y) - 1,
    lambda y: 1 - F.relu(y),
    lambda y: torch.sigmoid(y).log(),
    lambda y: y**3,
    lambda y: y.clamp(min=-1),
    lambda y: y.clamp(max=0),
    lambda y: F.threshold(y, 0.0, -1.0),
    lambda y: F.threshold(y, -1.0, 0.0),
    lambda y: F.hardtanh(y),
    lambda y: y * (y > -1),
    lambda y: torch.where(y > -1, y, 0.0),
    lambda y: F.pad(F.relu(y[..., 1:]), (1, 0), value=-1.0),
    lambda y: F.interpolate(F.relu(y), size=y.shape[2:], mode="bicubic"),
    lambda y, net: F.relu(y) + other(net),
    lambda y, net: F.relu(y) * (net.scale - 2),
    lambda y, net: F.relu(y) + net.shift,
    lambda y, net: F.relu(y) - F.relu(other(net)),
    lambda y: F.instance_norm(F.relu(y)),
    lambda y: F.avg_pool2d(F.relu(y) + 1, 3, 1, 1) - 1,  # averages with the zeros of its padding
    lambda y: nn.AvgPool2d(3, 1, 1)(F.relu(y) + 1) - 1,
    lambda y: 1 - F.lp_pool2d(torch.sigmoid(y), 2, 3, 1),
    lambda y: -(-F.relu(y)).cumprod(1),
]


@pytest.mark.parametrize("function", NOT_NEGATIVE, ids=range(len(NOT_NEGATIVE)))
def test_functions_without_negative_values_are_recognised(function: Callable[..., Tensor]) -> None:
    net = Between(function)
    assert seen(net) == ALL
    y = net.function(torch.randn(2, 8, 10, 10)) if function.__code__.co_argcount == 1 else torch.zeros(1)
    assert float(y.min()) >= 0  # the claim itself


@pytest.mark.parametrize("function", NEGATIVE, ids=range(len(NEGATIVE)))
def test_functions_with_negative_values_are_not_taken_for_others(function: Callable[..., Tensor]) -> None:
    assert seen(Between(function)) == ()


POSITIVE: list[Callable[..., Tensor]] = [
    lambda y: torch.sigmoid(y),
    lambda y: 1 - torch.sigmoid(y),
    lambda y: 1 / (1 + torch.exp(-y)),
    lambda y: F.softplus(y),
    lambda y: torch.exp(y).sqrt(),
    lambda y: torch.exp(y) ** 1.5,
    lambda y: F.gelu(torch.exp(y)),
    lambda y: y.softmax(1),
    lambda y: y.clamp_min(0.1),
    lambda y: F.relu(y) + 1,
    lambda y: F.relu(y) + 0.5 * torch.sigmoid(y),
    lambda y: torch.sigmoid(y) * F.softplus(y) / 7,
]


def warnings_of(net: nn.Module, method: str = "bnn") -> list[str]:
    made = plan(net, method, example_inputs=torch.zeros(1, 3, 12, 12))
    return [note for note in made.notes if note.startswith("warning")]


@pytest.mark.parametrize("function", POSITIVE, ids=range(len(POSITIVE)))
def test_what_sees_positive_values_only_is_warned_of(function: Callable[..., Tensor]) -> None:
    net = Between(function)
    (warning,) = warnings_of(net)
    assert warning.startswith("warning: layer: see positive values only, so that the bit is 1")
    assert float(function(torch.randn(2, 8, 10, 10)).min()) > 0  # the claim itself
    assert not warnings_of(net, "reactnet")  # its threshold is learnt


def test_positive_channels_beside_others_are_warned_of() -> None:
    (warning,) = warnings_of(Between(lambda y, net: torch.cat([other(net), y.sigmoid()], 1), channels=16))
    assert "positive values only on some of their channels" in warning
    assert not warnings_of(Between(lambda y, net: torch.cat([other(net), F.relu(y)], 1), channels=16))


MODULES = [
    nn.ReLU(),
    nn.ReLU6(),
    nn.Softplus(),
    nn.Sigmoid(),
    nn.Hardsigmoid(),
    nn.Softmax(1),
    nn.Hardtanh(0, 1),
    nn.Threshold(0.1, 0.0),
    nn.Sequential(nn.ReLU(), nn.Dropout(0.2), nn.MaxPool2d(3, 1, 1), nn.GELU()),
    nn.Sequential(nn.ReLU(), nn.Identity(), nn.ZeroPad2d(1), nn.LocalResponseNorm(3)),
    nn.Sequential(nn.ReLU(), nn.ConstantPad2d(1, 0.5), nn.Upsample(scale_factor=2)),
    timm.layers.BatchNormAct2d(8),
]
OTHER_MODULES = [
    nn.GELU(),
    nn.PReLU(8),
    nn.Hardtanh(),
    nn.Threshold(-0.1, 0.0),
    nn.Tanh(),
    nn.SiLU(),
    nn.ELU(),
    nn.Sequential(nn.ReLU(), nn.AlphaDropout(0.2)),
    nn.Sequential(nn.ReLU(), nn.BatchNorm2d(8)),
    nn.Sequential(nn.ReLU(), nn.ConstantPad2d(1, -0.5)),
    timm.layers.BatchNormAct2d(8, apply_act=False),
    nn.Sequential(nn.ReLU(), nn.Upsample(scale_factor=2, mode="bicubic")),
]


@pytest.mark.parametrize(
    ("module", "expected"),
    [*((m, ((0, 8),)) for m in MODULES), *((m, ()) for m in OTHER_MODULES)],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_modules(module: nn.Module, expected: Any) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), module, nn.Conv2d(8, 8, 3), nn.Conv2d(8, 2, 1))
    assert seen(net, "2") == expected


def test_each_channel_of_a_concatenation_counts_for_itself() -> None:
    net = Between(lambda y, net: torch.cat([F.relu(y), other(net), y.sigmoid()], 1), channels=24)
    assert seen(net) == ((0, 8), (16, 24))
    net = Between(lambda y, net: F.max_pool2d(torch.cat([other(net), F.relu(y)], 1), 2), channels=16)
    assert seen(net) == ((8, 16),)
    shuffled = Between(
        lambda y, net: F.channel_shuffle(torch.cat([other(net), F.relu(y)], 1), 2), channels=16
    )
    assert seen(shuffled) == ()


def test_a_part_that_is_changed_in_place_is_seen_by_its_whole() -> None:
    def by_a_view(y: Tensor) -> Tensor:
        y = F.relu(y)
        y[:, :2].sub_(5.0)
        return y

    def by_an_index(y: Tensor) -> Tensor:
        y = F.relu(y)
        y[:, :2] = -1.0
        return y

    def behind_the_view(y: Tensor) -> Tensor:
        y = F.relu(y)
        part = y.flatten(2)
        y.sub_(5.0)
        return part.unflatten(2, (10, 10))

    assert [seen(Between(f)) for f in (by_a_view, by_an_index, behind_the_view)] == [()] * 3


class Shared(nn.Module):
    def __init__(self, *, second: bool) -> None:
        super().__init__()
        self.stem, self.layer, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)
        self.second = second

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(F.relu(self.stem(x)))
        return self.last(self.layer(F.relu(y) if self.second else y))


def test_a_shared_layer_sees_no_negatives_only_if_no_call_does() -> None:
    assert seen(Shared(second=True)) == ALL
    assert seen(Shared(second=False)) == ()


def test_values_behind_what_a_method_puts_in_a_functions_place_can_be_negative() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3),
                        nn.Conv2d(8, 2, 1))  # fmt: skip
    x = torch.zeros(1, 3, 12, 12)
    for method in ("bidense", "reactnet", "adabin"):
        assert not any(row.nonnegative for row in plan(net, method, example_inputs=x).converted)
    assert not any(
        r.nonnegative for r in plan(net, "bnn", nonlinearity="hardtanh", example_inputs=x).converted
    )
    assert all(row.nonnegative for row in plan(net, "bnn", example_inputs=x).converted[:1])
