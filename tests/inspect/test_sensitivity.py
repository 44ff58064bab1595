"""Layers in their other form, what that changes, and which layers a budget keeps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import binarize
from binarize import inspect
from binarize.errors import ConfigError
from binarize.inspect.layer_sensitivity import Sensitivity
from binarize.inspect.sections.sensitivity import sensitivity_section
from binarize.layers import BinaryConv2d


class Two(nn.Module):
    """Two binary layers, the result of one of which counts only."""

    def __init__(self) -> None:
        super().__init__()
        self.matters = BinaryConv2d(4, 4, 3, padding=1, method="bnn")
        self.idle = BinaryConv2d(4, 4, 1, method="bnn")

    def forward(self, x: Tensor) -> Tensor:
        return self.matters(x) + 0.0 * self.idle(x)


def test_a_float_layer_is_the_float_convolution_with_matched_moments():
    net = Two().eval()
    x = torch.randn(6, 4, 9, 9)
    swaps = inspect.LayerSwaps(net, [x])
    with torch.no_grad():
        before = net(x)
        with swaps.swapped(["matters"]):
            found = net(x)
        assert net(x).equal(before)  # nothing is left behind
    layer: Any = net.matters
    z = F.conv2d(torch.where(x >= 0, 1.0, -1.0), torch.where(layer.weight >= 0, 1.0, -1.0), padding=1)
    other = F.conv2d(x, layer.weight, padding=1)
    matched = (other - _mean(other)) / _std(other) * _std(z) + _mean(z)
    assert torch.allclose(found, layer.norm(matched), atol=1e-4)


def _mean(x: Tensor) -> Tensor:
    return x.mean((0, 2, 3), keepdim=True)


def _std(x: Tensor) -> Tensor:
    return x.std((0, 2, 3), keepdim=True, unbiased=False)


def test_the_layer_that_matters():
    net = Two().eval()
    x = torch.randn(8, 4, 9, 9)
    swaps = inspect.LayerSwaps(net, [x[:4], x[4:]])
    with torch.no_grad(), swaps.swapped(["matters"]):
        truth = net(x)  # the network with this layer float is right

    def error(model: nn.Module) -> float:
        with torch.no_grad():
            return (model(x) - truth).abs().mean().item()

    found = inspect.sensitivity(net, swaps, error, higher=False)
    assert found.groups == ("matters", "idle")
    assert found.base > 0.01
    assert found.gain[0] == pytest.approx(found.base)
    assert found.gain[1] == pytest.approx(0)
    weights, positions = np.array([4 * 4 * 9, 4 * 4]), 81
    assert found.bytes == pytest.approx(weights * (4 - 1 / 8))
    assert found.ops == pytest.approx(weights * positions * (1 - 1 / 64))
    kept = inspect.keep_list(found, bytes=float(found.bytes[0]))
    assert kept.patterns == ("matters",)
    assert inspect.keep_list(found, bytes=float(found.bytes[0]) - 1).patterns == ()


def test_a_float_network_is_made_binary_layer_by_layer():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 2, 1)
    ).eval()
    x = torch.randn(6, 3, 9, 9)
    with pytest.raises(ConfigError, match="a float network needs a method"):
        inspect.LayerSwaps(net, [x])
    swaps = inspect.LayerSwaps(net, [x], method="reactnet")
    assert [swap.name for swap in swaps.swaps] == ["1", "2"]  # the policy keeps stem and last layer
    with torch.no_grad():
        truth = net(x)
        y = net[0](x)
        weight: Any = net[1].weight
        scale = weight.abs().mean((1, 2, 3), keepdim=True)
        z = F.conv2d(torch.where(y >= 0, 1.0, -1.0), torch.where(weight >= 0, scale, -scale), padding=1)
        float_z = net[1](y)
        matched = (z - _mean(z)) / _std(z) * _std(float_z) + _mean(float_z)
        expected = net[3](net[2](matched))
        with swaps.swapped(["1"]):
            assert torch.allclose(net(x), expected, atol=1e-4)

    def closeness(model: nn.Module) -> float:
        with torch.no_grad():
            return -(model(x) - truth).abs().mean().item()

    found = inspect.sensitivity(net, swaps, closeness, by="layer")
    assert found.from_float
    assert found.base == 0
    assert (found.gain > 0).all()  # binary, each is worse


def test_blocks_change_all_their_layers():
    timm = pytest.importorskip("timm")
    model = timm.create_model("test_convnext", num_classes=2)
    net = binarize.apply(model, "bidense", granularity="layer").eval()
    x = torch.randn(2, 3, 64, 64)
    swaps = inspect.LayerSwaps(net, [x])
    seen: list[Tensor] = []
    found = inspect.sensitivity(net, swaps, lambda m: float(seen.append(m(x).detach()) or 0.0), by="block")
    assert any(len(names) == 3 for names in found.layers)
    assert len(seen) == 1 + len(found.groups)
    assert all(not other.equal(seen[0]) for other in seen[1:])
    plan: Any = net.binarize_plan
    assert {name for names in found.layers for name in names} == {row.name for row in plan.converted}


def test_packed_networks_are_refused():
    with pytest.raises(ConfigError, match="inspect the run that it was made from"):
        inspect.LayerSwaps(binarize.deploy(Two().eval()), [torch.randn(1, 4, 9, 9)])


def worth(gain: list[float], sizes: list[float], ops: list[float]) -> Sensitivity:
    names = tuple("abcdef"[: len(gain)])
    return Sensitivity(
        groups=names,
        layers=tuple((name,) for name in names),
        from_float=False,
        base=0.5,
        changed=0.5 + np.array(gain),
        higher=True,
        bytes=np.array(sizes),
        ops=np.array(ops),
    )


def test_keep_lists_are_greedy_by_gain_per_cost():
    found = worth([0.3, 0.2, -0.1, 0.05, 0.2], [100, 20, 1, 10, 30], [1, 1, 1, 1, 100])
    by_bytes = inspect.keep_list(found, bytes=60)
    assert by_bytes.groups == (
        "b",
        "e",
        "d",
    )  # 0.01, 0.0067, 0.005 for a byte; a no longer fits, c is worth nothing
    assert by_bytes.gain == pytest.approx(0.45)
    assert by_bytes.bytes == 60
    assert inspect.keep_list(found, ops=2).groups == ("a", "b")
    assert inspect.keep_list(found, bytes=60, ops=3).groups == ("b", "d")
    assert inspect.keep_list(found, bytes=0).groups == ()
    for budget in ({}, {"bytes": -1.0}):
        with pytest.raises(ConfigError, match="expected a budget of 0 or more"):
            inspect.keep_list(found, **budget)


@pytest.mark.parametrize(
    ("higher", "measured", "helps"),
    [
        (True, (0.5, 0.6), True),
        (True, (0.5, 0.4), False),
        (True, (0.5, 0.5), False),
        (False, (0.5, 0.4), True),
        (False, (0.5, 0.6), False),
    ],
)
def test_a_keep_list_that_makes_the_figure_worse_is_not_suggested(
    higher: bool, measured: tuple[float, float], helps: bool
):
    found = worth([0.3, 0.2, -0.1], [100, 20, 1], [1, 1, 1])
    keep = inspect.keep_list(found, bytes=200)
    found = replace(found, higher=higher, changed=0.5 + (1 if higher else -1) * found.gain)
    section = sensitivity_section("net", found, "miou" if higher else "abs_rel", keep, measured)
    suggestion = section.findings[1]
    assert ("--keep b --keep a" in suggestion) == helps
    assert ("no keep list is suggested" in suggestion) != helps
    if not helps:
        assert ("worse" in suggestion) == (measured[0] != measured[1])
    assert [row["keep"] for row in section.rows] == [helps, helps, False]
    assert section.data["net"]["keep"]["helps"] is helps
    assert (
        "with 2 of 3 groups, if one at a time is made float, most with a (0.3000), b (0.2000)."
        in (section.findings[0])
    )
