"""Any method with any bypass: the engine's own choice, named in the plan."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import binarize
from binarize.errors import ConfigError
from binarize.functional import channel_bypass
from binarize.graph import Plan, execute, plan
from binarize.layers import BinaryConv2d
from binarize.methods import create, names
from binarize.methods.bisrnet import BiSRUnits
from binarize.runtime.verify import verify
from binarize.testing import check_method

CHOICES = ("cfb", "identity", "duplicate", "bisrnet", "none")


class Net(nn.Module):
    """A residual block, a doubling, a shrinking layer, and a stride."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.same, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.twice = nn.Conv2d(8, 16, 1)
        self.odd = nn.Conv2d(16, 12, 3, padding=1)
        self.down = nn.Conv2d(12, 12, 2, 2)
        self.head = nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.norm(self.same(x)))
        return self.head(torch.relu(self.down(torch.relu(self.odd(torch.relu(self.twice(x)))))))


EXPECTED = {
    "cfb": {"same": "identity", "twice": "CFB up", "odd": "CFB down", "down": "pool"},
    "identity": {"same": "identity", "twice": "none", "odd": "none", "down": "pool"},
    "duplicate": {"same": "identity", "twice": "duplicate", "odd": "none", "down": "pool"},
    "bisrnet": {"same": "identity", "twice": "units", "odd": "none", "down": "units"},
    "none": {"same": "none", "twice": "none", "odd": "none", "down": "none"},
}


FAST = ("bidense", "irnet", "bisrnet")


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize(
    "method", [*FAST, *(pytest.param(n, marks=pytest.mark.slow) for n in names() if n not in FAST)]
)
def test_the_plan_names_the_bypass_of_every_layer(method: str, choice: str) -> None:
    torch.manual_seed(0)
    net, x = Net(), torch.randn(2, 3, 8, 8)
    if choice == "bisrnet" and binarize.methods.get(method).parallel:
        with pytest.raises(ConfigError, match="units of one binary layer"):
            plan(net, method, example_inputs=x, bypass=choice)
        return
    made = plan(net, method, example_inputs=x, bypass=choice)
    expected = dict(EXPECTED[choice])
    if method == "bidense" and choice == "identity":  # Table 4's row without CFB: where shapes agree
        expected["down"] = "none"
    assert {row.name: row.bypass for row in made.converted} == expected
    assert Plan.from_dict(json.loads(json.dumps(made.as_dict()))) == made
    model = execute(made, net).train()
    y = model(x)
    assert y.shape == net(x).shape
    y.square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_a_bypass_is_added_and_the_sum_around_it_goes() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 5, 5)
    for cout in (4, 8, 6, 3):
        assert BinaryConv2d(4, cout, 3, padding=1, method="irnet").bypass is None
        assert BinaryConv2d(4, cout, 3, padding=1, method="irnet", bypass="cfb").bypass is not None
        assert BinaryConv2d(4, cout, 3, padding=1, bypass="none").bypass is None
        torch.manual_seed(1)
        layer: Any = binarize.binary_layer(nn.Conv2d(4, cout, 3, padding=1), "irnet", bypass="cfb")
        torch.manual_seed(1)
        alone: Any = binarize.binary_layer(nn.Conv2d(4, cout, 3, padding=1), "irnet")
        assert torch.allclose(layer(x), alone(x) + channel_bypass(x, cout), atol=1e-6)
    images = torch.randn(2, 3, 8, 8)
    row = {r.name: r for r in plan(Net(), "irnet", example_inputs=images, bypass="cfb").rows}["same"]
    assert "outer sum dropped" in str(row.residual) or "dropped" in str(row.residual)
    assert not plan(Net(), "irnet", example_inputs=images).rows[1].residual


def test_units_of_any_method() -> None:
    built: Any = binarize.binary_layer(nn.Conv2d(4, 8, 3, 2, 1), create("recu", bypass="bisrnet"))
    assert isinstance(built, BiSRUnits)
    for unit in built.units:
        assert type(unit.weight_rule).__name__ == "ReCUWeights"
        assert unit.norm is None
        assert torch.allclose(unit.weight_state.alpha.flatten(), unit.weight.detach().abs().mean((1, 2, 3)))


@pytest.mark.parametrize(("method", "choice"), [("adabin", "cfb"), ("rbnn", "bisrnet"), ("bisrnet", "none")])
def test_crossed_methods_keep_the_contract_and_are_packed(method: str, choice: str) -> None:
    chosen = create(method, bypass=choice)
    if method == "rbnn":  # one is enough: each takes a second
        check_method(chosen)
    x = torch.randn(2, 3, 8, 8)
    model = binarize.apply(Net(), chosen, example_inputs=x).eval()
    packed = binarize.deploy(model)
    assert not packed.deploy_report.refused
    assert all(error.agrees for error in verify(model, packed, [x]).layers)


def test_other_values_are_refused_and_the_usual_one_goes_unsaid() -> None:
    with pytest.raises(ConfigError, match="bypass='cbf', expected one of 'own', 'cfb'"):
        create("irnet", bypass="cbf")
    assert "bypass" not in create("irnet").options()
    assert create("irnet", bypass="cfb").options()["bypass"] == "cfb"
    assert create("bidense").options()["bypass"] == "cfb"


@pytest.mark.parametrize("method", names())
def test_hooks_on_the_gradients_of_all_modules_change_nothing(method: str) -> None:
    """As users of gradient maps register them: what their hooks wait for must not be overwritten."""
    torch.manual_seed(0)
    net = binarize.apply(Net(), method, example_inputs=torch.rand(2, 3, 8, 8))
    hooked, images = copy.deepcopy(net), torch.rand(2, 3, 8, 8, requires_grad=True)
    seen = []
    for name, module in hooked.named_modules():
        module.register_full_backward_hook(lambda *_, name=name: seen.append(name))
    for made in (net, hooked):
        made(images).square().sum().backward()
    assert {"same", ""} <= set(seen)
    for (name, parameter), other in zip(net.named_parameters(), hooked.parameters(), strict=True):
        if parameter.grad is None:
            assert other.grad is None
        else:
            torch.testing.assert_close(other.grad, parameter.grad, rtol=1e-4, atol=1e-5, msg=name)
