"""What methods do with weights, options and bypasses at the edge of what they are made for."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import binarize
from binarize.errors import ConfigError
from binarize.functional import quantize
from binarize.layers import BinaryConv2d, BinaryLinear, StepSTE
from binarize.methods import create
from binarize.methods.bisrnet import BiSRUnits, units_of
from binarize.methods.bnext import BNext, TemperedWeights
from binarize.methods.float_layer import site_of


@pytest.mark.parametrize("value", [0.125, 0.1, -0.3, 0.0])
@pytest.mark.parametrize("method", ["irnet", "rbnn", "recu"])
def test_filters_of_equal_weights_have_small_gradients(method: str, value: float) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, padding=1)
    nn.init.constant_(conv.weight, value)
    layer = binarize.binary_layer(conv, method)
    optimizer = torch.optim.SGD(layer.parameters(), 0.01)
    for _ in range(2):
        optimizer.zero_grad()
        (layer(torch.randn(2, 4, 5, 5)) * torch.randn(2, 6, 5, 5)).sum().backward()
        grads = [p.grad for p in layer.parameters() if p.grad is not None]
        assert all(float(g.abs().max()) < 1e6 for g in grads)
        optimizer.step()
    assert all(bool(p.isfinite().all()) for p in layer.parameters())


@pytest.mark.parametrize("decay", [10.0, -0.5, 1.0, 0.99])
def test_bnext_takes_no_temperature_that_does_not_fall(decay: float) -> None:
    with pytest.raises(ConfigError, match="decay"):
        create("bnext", decay=decay)
    assert BNext(decay=0.0).temperature(0.0) == 1


def test_bnext_lets_large_weights_come_back() -> None:
    w = torch.tensor([-2.0, -2.0, 1.0, 2.0, 2.0], requires_grad=True)
    g = torch.tensor([3.0, -3.0, 3.0, 3.0, -3.0])  # a step goes against the gradient
    quantize(TemperedWeights(), w, torch.tensor(0.5)).backward(g)
    assert w.grad is not None
    assert w.grad.tolist() == [0.0, -3.0, 3.0, 3.0, 0.0]


def test_the_own_bypass_of_bidense_is_cfb() -> None:
    assert create("bidense", bypass="own") == create("bidense")
    assert create("bidense", bypass="own").options()["bypass"] == "cfb"
    assert create("bidense", bypass="own", ablation=2) == create("bidense", ablation=2)
    assert BinaryConv2d(4, 6, 3, padding=1, bypass="own").bypass is not None


def test_centred_filters_of_one_weight_are_refused() -> None:
    for layer in (nn.Conv2d(4, 4, 1, groups=4), nn.Linear(1, 4)):
        with pytest.raises(ConfigError, match="one weight"):
            binarize.binary_layer(layer, "bit")
    with pytest.raises(ConfigError, match="one weight"):
        binarize.binary_layer(nn.Linear(1, 4), "bidense")
    binarize.binary_layer(nn.Conv2d(4, 4, 1, groups=4), "bidense")  # not centred


class Behind(nn.Module):
    """A float stem with ReLU, a layer, a head."""

    def __init__(self, layer: nn.Module, channels: int) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.layer = layer
        self.head = nn.Conv2d(channels, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(torch.relu(self.norm(self.stem(x)))))


@pytest.mark.parametrize("cout", [4, 16])
def test_units_behind_a_relu_have_the_values_0_and_1(cout: int) -> None:
    torch.manual_seed(0)
    net, x = Behind(nn.Conv2d(8, cout, 3, 2, 1), cout), torch.randn(2, 3, 8, 8)
    plan = binarize.plan(net, "bnn", bypass="bisrnet", example_inputs=x)
    (row,) = plan.converted
    assert row.activations == "{0, 1}"
    model: Any = binarize.apply(net, "bnn", bypass="bisrnet", example_inputs=x)
    assert isinstance(model.layer, BiSRUnits)
    unit: Any
    for unit in model.layer.units:
        assert isinstance(unit.quantizer, StepSTE)
        images = torch.rand(2, unit.in_channels, 6, 6) - 0.5
        y = unit._dense(images.relu(), unit._geometry)
        assert not torch.equal(y[0], y[1])
    warned = binarize.plan(net, "bnn", bypass="bisrnet", nonlinearity="own", example_inputs=x).notes
    assert any("warning" in note and "layer" in note for note in warned)


def test_units_know_which_of_their_channels_are_nonnegative() -> None:
    conv: Any = nn.Conv2d(8, 4, 3, 2, 1)
    site = dataclasses.replace(site_of(conv), nonnegative=((2, 8),))
    built: Any = units_of(create("bnn", bypass="bisrnet"), site, conv.weight)
    assert [unit.quantizer.rule.ranges for unit in built.units] == [((2, 4),), ()]
    whole: Any = units_of(create("bit", bypass="bisrnet"), site, conv.weight)
    assert [unit.quantizer.rule.unsigned for unit in whole.units] == [False, True]


@pytest.mark.parametrize("method", ["bnn", "bnext", "irnet", "reste", "recu", "rbnn", "xnor", "bit", "lqnet"])
def test_units_of_any_method_keep_the_size_of_values(method: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 32, 6, 6)
    for conv in (nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 64, 3, 2, 1)):
        layer = binarize.binary_layer(conv, method, bypass="bisrnet")
        binarize.set_progress(layer, 1.0)
        for training in (False, True) if method != "bnext" else (True,):  # its weights have just changed
            assert float(layer.train(training)(x).detach().std()) < 3


@pytest.mark.parametrize("method", ["irnet", "rbnn", "recu", "reste", "fda", "bnext"])
def test_the_progress_may_be_set_between_forward_and_backward(method: str) -> None:
    def grads(between: bool) -> list[Tensor]:
        torch.manual_seed(0)
        layer = BinaryConv2d(4, 6, 3, padding=1, method=method).train()
        y = (layer(torch.randn(2, 4, 5, 5, requires_grad=True)) * torch.randn(2, 6, 5, 5)).sum()
        if between:
            binarize.set_progress(layer, 0.5)
        y.backward()
        return [p.grad for p in layer.parameters() if p.grad is not None]

    assert all(torch.equal(a, b) for a, b in zip(grads(True), grads(False), strict=True))


def test_single_layers_say_who_builds_units() -> None:
    with pytest.raises(ConfigError, match="binary_layer"):
        BinaryConv2d(8, 16, 3, padding=1, method="irnet", bypass="bisrnet")
    with pytest.raises(ConfigError, match="binary_layer"):
        BinaryLinear(8, 16, kind="pointwise", method="irnet", bypass="bisrnet")
    assert BinaryConv2d(8, 8, 3, padding=1, method="irnet", bypass="bisrnet").bypass is not None
    assert BinaryConv2d(8, 12, 3, padding=1, method="irnet", bypass="bisrnet").bypass is None
    assert BinaryConv2d(8, 16, 3, method=create("irnet", bypass="bisrnet"), bypass=False).bypass is None


def test_running_variances_start_for_unsigned_activations() -> None:
    conv = nn.Conv2d(8, 6, 3, padding=1)
    signed: Any = binarize.binary_layer(conv, "bit")
    unsigned: Any = binarize.binary_layer(conv, "bit", nonnegative_input=True)
    torch.testing.assert_close(unsigned.norm.running_var, signed.norm.running_var / 4)
