"""Masked binary weights: which weights are 0, which layers are masked, and what the plan says of it."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import binarize
from binarize.errors import ConfigError
from binarize.functional import SteSign
from binarize.graph import Plan
from binarize.layers import BinaryLayer, LayerCost
from binarize.methods.mbunet import MaskedSign, MBUNet
from binarize.native.library import available
from binarize.runtime.verify import verify


class Net(nn.Module):
    """A float stem and head, and layers of 3,456, 2,304 (strided), 9,216 and 512 weights (transposed)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, padding=1)
        self.wide = nn.Conv2d(24, 16, 3, padding=1)
        self.down = nn.Conv2d(16, 16, 3, 2, 1)
        self.deep = nn.Conv2d(16, 64, 3, padding=1)
        self.up = nn.ConvTranspose2d(64, 2, 2, 2)
        self.head = nn.Conv2d(2, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.stem, self.wide, self.down, self.deep, self.up):
            x = torch.relu(layer(x))
        return self.head(x)


WEIGHTS = {"wide": 3456, "down": 2304, "deep": 9216, "up": 512}
MACS = {"wide": 3456 * 144, "down": 2304 * 36, "deep": 9216 * 36, "up": 512 * 36}  # at 12 x 12


def masked_of(**options: Any) -> set[str]:
    model = binarize.apply(Net(), "mbunet", example_inputs=torch.randn(1, 3, 12, 12), **options)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, BinaryLayer)}
    assert set(layers) == set(WEIGHTS)
    for layer in layers.values():
        values = set(layer.binary_weight().unique().tolist())
        assert values == ({-1.0, 0.0, 1.0} if isinstance(layer.weight_rule, MaskedSign) else {-1.0, 1.0})
    return {name for name, layer in layers.items() if isinstance(layer.weight_rule, MaskedSign)}


@pytest.mark.parametrize("w_op", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 0.35, 0.6, 0.9, 1.0])
def test_the_cheapest_layers_are_masked(share: float, w_op: float) -> None:
    names = list(WEIGHTS)
    costs = [LayerCost(MACS[name], WEIGHTS[name]) for name in names]
    score = {
        name: w_op * MACS[name] / sum(MACS.values()) + (1 - w_op) * WEIGHTS[name] / sum(WEIGHTS.values())
        for name in names
    }
    # of all sets of layers that are cheaper than the others: the largest that is within the share
    fits = [
        set(chosen)
        for n in range(len(names) + 1)
        for chosen in itertools.combinations(names, n)
        if sum(score[name] for name in chosen) <= share + 1e-12
        and all(score[a] <= score[b] for a in chosen for b in names if b not in chosen)
    ]
    reduced = MBUNet(masked=share, w_op=w_op).reduced(costs)
    assert set(names) - {names[place] for place in reduced} == max(fits, key=len)


def test_networks_are_masked_by_what_their_layers_cost() -> None:
    assert masked_of() == {"up", "down"}  # 2.6 and 11.9 %; the next one has 37.9 %
    assert masked_of(w_op=0.0) == {"up", "down"}
    assert masked_of(w_op=1.0, masked=0.5) == {"up", "down", "deep"}
    assert masked_of(masked=0.0) == set()
    assert masked_of(masked=1.0) == set(WEIGHTS)


def test_the_plan_names_the_layers_without_a_mask() -> None:
    plan = binarize.plan(Net(), "mbunet", example_inputs=torch.randn(1, 3, 12, 12))
    (note,) = [str(note) for note in plan.notes if "cheaper form" in str(note)]
    assert note == "by what the layers cost, the cheaper form of mbunet in layers wide, deep"
    assert Plan.from_dict(json.loads(json.dumps(plan.as_dict()))) == plan
    others = binarize.plan(Net(), "bnn", example_inputs=torch.randn(1, 3, 12, 12))
    assert not any("reduced" in dict(row.context) for row in others.rows)


def test_a_file_knows_which_layers_are_masked(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 12, 12)
    model = binarize.apply(Net(), "mbunet", example_inputs=x, masked=0.2).eval()
    path = binarize.save(model, tmp_path / "net.safetensors")
    again = binarize.load(path, Net()).eval()
    rules = [[m.weight_rule for m in net.modules() if isinstance(m, BinaryLayer)] for net in (model, again)]
    assert rules[0] == rules[1]
    assert {type(rule) for rule in rules[0]} == {MaskedSign, SteSign}
    with torch.no_grad():
        assert torch.equal(again(x), model(x))


def test_the_share_of_zeros_is_that_of_the_normal_distribution() -> None:
    w = torch.randn(64, 64, 3, 3, generator=torch.Generator().manual_seed(0))
    for threshold in (0.0, 0.7, 1.5):
        zeros = float((MaskedSign(threshold).quantize(w)[0] == 0).float().mean())
        within = threshold * math.sqrt(2 / math.pi)  # mean(abs(w)) of N(0, 1)
        assert zeros == pytest.approx(math.erf(within / math.sqrt(2)), abs=0.01)


@pytest.mark.parametrize("threshold", [0.0, 0.7, 1.5])
def test_weights_are_half_the_sum_of_two_signs(threshold: float) -> None:
    w = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    w[0, 0, 0] = torch.tensor([0.0, -0.0, 1e-9])
    rule = MaskedSign(threshold)
    positive, scale = rule.signs(w)
    limit = threshold * w.abs().mean()
    first, second = (torch.where(p, 1.0, -1.0) for p in positive)
    assert scale.tolist() == torch.full((2, 6, 1, 1, 1), 0.5).tolist()
    assert torch.equal((first + second) / 2, torch.sign(w) * (w.abs() > limit))
    assert not bool((first > second).any())


def test_a_masked_layer_is_stored_as_two_bits_and_computed_as_two_convolutions(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 12, 12)
    model = binarize.apply(Net(), "mbunet", example_inputs=x).eval()
    packed = binarize.deploy(model)
    found = verify(model, packed, [x])
    assert len(found.layers) == 4
    assert all(layer.agrees for layer in found.layers), str(found)
    masked = {"up", "down"}
    for name, count in WEIGHTS.items():
        layer: Any = packed.get_submodule(name)
        bits = 2 if name in masked else 1
        assert layer.spec.weight_planes == bits
        assert layer.bits.numel() == bits * count // 8
        assert layer.why_by_torch() is None or not available()
    for counted in (binarize.summary(net, (2, 3, 12, 12)) for net in (model, packed)):
        rows = {row.name: row for row in counted.layers}
        for name, count in WEIGHTS.items():
            bits = 2 if name in masked else 1
            assert (rows[name].weight_bits, rows[name].activation_bits) == (bits, 1)
            assert rows[name].binary_params == bits * count
            assert rows[name].binary_macs == bits * 2 * MACS[name]  # of two images
    path = binarize.save(packed, tmp_path / "packed.safetensors", packed=True)
    with torch.no_grad():
        assert torch.equal(binarize.load(path, Net())(x), packed(x))


def test_weights_without_a_size_are_zeros() -> None:
    values, _ = MaskedSign().quantize(torch.zeros(2, 3, 1, 1))
    assert values.tolist() == torch.zeros(2, 3, 1, 1).tolist()
    layer = binarize.binary_layer(nn.Conv2d(4, 4, 3), "mbunet").train()
    with torch.no_grad():
        layer.weight.zero_()
    layer(torch.randn(2, 4, 6, 6)).square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in layer.parameters())


def test_a_layer_on_its_own_is_masked() -> None:
    layer: Any = binarize.binary_layer(nn.Linear(64, 32), "mbunet", threshold=1.0)
    assert layer.weight_rule == MaskedSign(1.0)


@pytest.mark.parametrize(
    "options", [{"threshold": -0.1}, {"threshold": 3.1}, {"masked": 1.5}, {"w_op": -1.0}]
)
def test_options_outside_their_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"mbunet: .*expected threshold 0 to 3"):
        binarize.methods.create("mbunet", **options)
