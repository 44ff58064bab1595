"""Sums that one layer makes for the next: when they are taken, and when they must not be."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import binarize
from binarize.native import features
from binarize.runtime import PackedLayer, deployed_layers, kernels, statistics

pytestmark = pytest.mark.skipif(not features().available, reason="the native kernels are not installed")
_TABLES = pytest.mark.skipif(features().isa != "avx512", reason="tables of scales are for AVX-512")


class Net(nn.Module):
    """Three binary layers, the second one with channels last, and something behind each of the first two."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 40, 3, stride=2, padding=1)
        self.a = nn.Conv2d(40, 40, 3, padding=1)
        self.b = nn.Linear(40, 64)
        self.c = nn.Conv2d(64, 64, 1)
        self.head = nn.Conv2d(64, 5, 1)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        y = self.between(self.a(self.stem(x)))
        z = self.between(self.b(y.permute(0, 2, 3, 1)))
        return self.head(self.c(z.permute(0, 3, 1, 2)))


class Watched:
    """Calls of `taken`: what was given for which layer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found: list[bool] = []
        monkeypatch.setattr(kernels, "taken", self)

    def __call__(self, maker: Any, maps: Tensor) -> Tensor | None:
        sums = statistics.taken(maker, maps)
        self.found.append(sums is not None)
        if sums is not None:
            torch.testing.assert_close(sums, maps.sum((2, 3)), rtol=1e-4, atol=1e-3)
        return sums


def deployed(between: Callable[[Tensor], Tensor], **options: Any) -> Any:
    torch.manual_seed(0)
    net = Net(between)
    model = binarize.apply(net, "bidense", example_inputs=torch.rand(2, 3, 32, 32), **options).eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None:
            layer.running_mean.normal_()
    return binarize.deploy(model)


def alone(model: Any) -> Any:
    """The same network whose layers know nothing of one another."""
    other = copy.deepcopy(model)
    for layer in deployed_layers(other).values():
        layer.sums_for = layer.sums_from = None
    return other


def nothing(x: Tensor) -> Tensor:
    return x


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("options", [{"granularity": "layer"}, pytest.param({}, marks=_TABLES)])
def test_layers_take_the_sums_of_the_layer_in_front(
    mode: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = deployed(nothing, **options)
    layers = deployed_layers(model)
    assert layers["b"].sums_from is layers["a"].sums_for is not None
    assert layers["c"].sums_from is layers["b"].sums_for is not None
    assert layers["a"].sums_from is layers["c"].sums_for is None
    watched = Watched(monkeypatch)
    for size in (32, 48):
        x = torch.rand(2, 3, size, size)
        with mode():
            torch.testing.assert_close(model(x), alone(model)(x), rtol=1e-4, atol=1e-4)
    assert watched.found == [True] * 4


def changed(x: Tensor) -> Tensor:
    return x.mul_(2.0)


def another(x: Tensor) -> Tensor:
    return x + 1.0


@pytest.mark.parametrize("between", [changed, another])
def test_what_is_computed_between_is_seen_in_the_graph(between: Any) -> None:
    assert all(layer.sums_from is None for layer in deployed_layers(deployed(between)).values())


def dropped(x: Tensor) -> Tensor:
    torch.manual_seed(1)
    return nn.functional.dropout(x, 0.5, inplace=True)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("change", [changed, another, dropped])
def test_what_is_computed_between_later_is_seen_too(
    change: Any, mode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = deployed(nothing, granularity="layer")
    model.between = change
    watched = Watched(monkeypatch)
    x = torch.rand(2, 3, 32, 32)
    with mode():
        torch.testing.assert_close(model(x), alone(model)(x), rtol=1e-4, atol=1e-4)
    assert watched.found == [False, False]


def test_maps_are_taken_for_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    model = deployed(nothing, granularity="layer")
    a, b = (deployed_layers(model)[name] for name in "ab")
    watched = Watched(monkeypatch)
    with torch.no_grad():
        y = a(torch.rand(2, 40, 6, 6))
        last = y.permute(0, 2, 3, 1)
        halves = torch.cat([b(last[:1]), b(last[1:])])
        a(torch.rand(2, 40, 6, 6))  # the latest sums are those of another map
        torch.testing.assert_close(b(last), halves, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(b(last.clone()), halves, rtol=1e-4, atol=1e-4)
    assert watched.found == [False] * 4


def test_nothing_is_counted_where_nobody_asks() -> None:
    torch.manual_seed(0)
    net = binarize.apply(Net(nothing), "reactnet", example_inputs=torch.rand(2, 3, 32, 32)).eval()
    packed = binarize.deploy(net)
    assert all(m.sums_for is None for m in packed.modules() if isinstance(m, PackedLayer))


def test_copies_are_linked_among_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    model = deployed(nothing, granularity="layer")
    part = pickle.dumps(deployed_layers(model)["b"])
    assert len(part) < len(pickle.dumps(model)) / 2  # a layer does not take the others along
    watched = Watched(monkeypatch)
    x = torch.rand(2, 3, 32, 32)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        layers = deployed_layers(other)
        assert layers["b"].sums_from is not deployed_layers(model)["b"].sums_from
        with torch.no_grad():
            torch.testing.assert_close(other(x), model(x))
    assert watched.found == [True] * 8
