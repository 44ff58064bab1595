"""bnn's activations {0, 1} on inputs without negative values, against formulas with torch.sign, 0 at 0."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binarize import apply, binary_layer, plan
from binarize.graph import execute
from binarize.graph.plan import Plan
from binarize.layers import BinaryLayer, SignSTE, StepSTE
from binarize.networks import upernet


class TorchSign(torch.autograd.Function):
    """torch.sign forward, gradient 1 for abs(x) <= 1: the rule as published code writes it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.sign(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return torch.where(x.abs() <= 1, grads[0], 0.0)


class Published(nn.Module):
    """Stands for a quantizer; outside of `ranges`, where values can be negative, 0 is +1 in this project."""

    def __init__(self, ranges: tuple[tuple[int, int], ...]) -> None:
        super().__init__()
        self.ranges = ranges

    def forward(self, x: Tensor) -> Tensor:
        free = torch.zeros(x.shape[1], dtype=torch.bool)
        for start, stop in self.ranges:
            free[start:stop] = True
        mask = (x == 0) & ~free.view(-1, *(1,) * (x.dim() - 2))
        return TorchSign.apply(x) + mask.to(x.dtype)


LAYERS = [
    (lambda: nn.Conv2d(6, 5, 3, padding=1, stride=2), (3, 6, 7, 6)),
    (lambda: nn.Conv2d(6, 6, 3, padding=1, groups=6), (3, 6, 7, 6)),
    (lambda: nn.Conv1d(6, 5, 3, padding=1), (3, 6, 9)),
    (lambda: nn.ConvTranspose2d(6, 5, 2, 2), (3, 6, 4, 5)),
    (lambda: nn.Linear(6, 5), (3, 4, 6)),
]


@pytest.mark.parametrize(("make", "shape"), LAYERS)
def test_a_layer_behind_a_relu_is_that_of_torch_sign(make: Any, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = binary_layer(make(), "bnn", nonnegative_input=True)
    assert isinstance(layer.quantizer, StepSTE)
    reference = copy.deepcopy(layer)
    everywhere = TorchSign.apply
    reference.quantizer = nn.Identity()
    reference.quantizer.forward = everywhere  # type: ignore[method-assign]
    x = F.relu(2 * torch.randn(shape))
    x.view(-1)[0] = 1.0  # the bound of the gradient belongs to it
    assert (x == 0).any()
    results = []
    for made in (layer, reference):
        given = x.clone().requires_grad_()
        y = made(given)
        (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
        results.append([y, given.grad, *(p.grad for p in made.parameters())])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    assert set(layer.quantizer(x).unique().tolist()) == {0.0, 1.0}


def test_values_at_and_around_zero() -> None:
    x = torch.tensor([0.0, -0.0, 1e-45, 1e-38, 1.0, torch.inf, -1.0])
    assert StepSTE()(x).tolist() == [0, 0, 1, 1, 1, 1, 0]
    both = StepSTE(((1, 2),), dim=0)(torch.stack([x, x, x]))
    assert both[1].tolist() == StepSTE()(x).tolist()
    assert both[0].tolist() == both[2].tolist() == [1, 1, 1, 1, 1, 1, -1]


def test_the_whole_table_network_is_that_of_torch_sign() -> None:
    torch.manual_seed(0)
    net = upernet("convnext_atto", width=16, num_classes=4)
    x = torch.randn(2, 3, 64, 64)
    net = apply(net, "bnn", form="table", example_inputs=x[:1]).train()
    row = {row.name: row for row in net.binarize_plan.rows}  # type: ignore[union-attr]
    assert row["out"].activations == "{0, 1}"  # behind the ReLU of the fusion
    assert row["psp.bottleneck.conv"].activations == "{0, 1} on 320 input channels"  # ReLUs beside a map
    reference = copy.deepcopy(net)
    for name, layer in reference.named_modules():
        if isinstance(layer, BinaryLayer):
            layer.quantizer = Published(row[name].nonnegative)
    results = []
    for made in (net, reference):
        for module in made.modules():
            if isinstance(module, nn.Dropout2d):
                module.p = 0.0
        y = made(x)
        F.cross_entropy(y, torch.arange(4).repeat_interleave(16).repeat(2, 64, 1)).backward()
        results.append([y, *(p.grad for p in made.parameters())])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    y = results[0][0].detach()
    assert (y[0] - y[1]).abs().max() > 0.1  # what it gives depends on the image


class NanCheck(nn.Module):
    """Cannot be rewritten: control flow on values."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.one, self.two = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        if bool(torch.isnan(x).any()):
            raise ValueError("NaN")
        x = self.two(F.relu(self.one(x)))
        return self.head(x.clamp(min=0).mean((2, 3)))


def accuracy_after(net: nn.Module, steps: int = 25) -> float:
    """On vertical against horizontal stripes."""
    generator = torch.Generator().manual_seed(0)
    stripes = torch.tensor([1.0, -1.0]).repeat(4).expand(8, 8)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    right = torch.zeros(0)
    for _ in range(steps):
        labels = torch.randint(2, (32,), generator=generator)
        images = torch.stack([stripes if label else stripes.T for label in labels])[:, None]
        logits = net(images + 0.3 * torch.randn(images.shape, generator=generator))
        optimizer.zero_grad()
        F.cross_entropy(logits, labels).backward()
        optimizer.step()
        right = torch.cat([right, (logits.argmax(1) == labels).float()])[-160:]
    return float(right.mean())


def test_a_network_that_cannot_be_rewritten_learns() -> None:
    torch.manual_seed(0)
    net = NanCheck()
    x = torch.zeros(1, 1, 8, 8)
    made = plan(net, "bnn", example_inputs=x)
    assert [row.activations for row in made.converted] == ["{0, 1}", "{0, 1}"]
    assert not [note for note in made.notes if "warning" in note]
    assert accuracy_after(execute(made, net)) > 0.95


def test_a_learnt_scale_and_shift_behind_a_relu_leave_the_signal() -> None:
    """LearnableAffineBlock of PP-HGNet: x * 1 + 0 at the start."""
    torch.manual_seed(0)
    net = timm.create_model("hgnetv2_b0", num_classes=5).train()
    made = plan(net, "bnn", example_inputs=torch.zeros(1, 3, 64, 64))
    sets = {row.name: row.activations for row in made.converted}
    assert sets["stem.stem2a.conv"] == sets["stem.stem4.conv"] == "{0, 1}"
    model = execute(made, net)
    model(torch.randn(4, 3, 64, 64)).square().sum().backward()
    for name, layer in model.named_modules():
        if isinstance(layer, BinaryLayer):
            gradient = layer.weight.grad
            assert gradient is not None
            assert 0 < float(gradient.abs().max()) < 1e3, name


@pytest.mark.parametrize("name", ["hrnet_w18_small", "vgg11_bn"])
def test_networks_of_relus(name: str) -> None:
    net = timm.create_model(name, num_classes=5)
    made = plan(net, "bnn", example_inputs=torch.zeros(1, 3, 64, 64))
    assert {row.activations for row in made.converted} == {"{0, 1}"}
    assert not made.swaps or all(swap.to != "activation" for swap in made.swaps)  # ReLUs stay


def test_the_layer_of_transformers_between_relu_and_sum() -> None:
    net = nn.Sequential(
        nn.Linear(4, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 2)
    )
    made = plan(net, "bnn", example_inputs=torch.zeros(2, 5, 4))
    rows = {row.name: row.activations for row in made.converted}
    assert rows["1.linear2"] == "{0, 1}"
    assert rows["1.linear1"] == ""


def test_what_sees_one_sign_only_is_named_with_what_helps() -> None:
    net, x = NanCheck(), torch.zeros(1, 1, 8, 8)
    (note,) = (n for n in plan(net, "bnn", nonlinearity="own", example_inputs=x).notes if "warning" in n)
    for part in ("one, two", "nonlinearity=auto", "keep=", "another method", "hardtanh", "hook"):
        assert part in note
    (note,) = (n for n in plan(net, "bidense", binarizer="sign", example_inputs=x).notes if "warning" in n)
    assert "binarizer=dab" in note
    (note,) = (n for n in plan(net, "bidense", threshold="none", example_inputs=x).notes if "warning" in n)
    assert "threshold=adaptive" in note
    for method in ("bidense", "reactnet", "adabin", "bisrnet"):  # their thresholds are learnt
        assert not [n for n in plan(net, method, example_inputs=x).notes if "warning" in n]


def test_the_set_stands_in_the_table_and_in_json() -> None:
    made = plan(NanCheck(), "bnn", example_inputs=torch.zeros(1, 1, 8, 8))
    assert "activations {0, 1}" in " ".join(str(made).split())
    short = made.as_dict(short=True)
    assert [row.get("activations") for row in short["rows"]] == [None, "{0, 1}", "{0, 1}", None]
    assert Plan.from_dict(short) == made


def test_plans_of_the_first_version_are_executed_as_they_were_made() -> None:
    """`auto` put a hard tanh where a ReLU stood, and activations were signs everywhere."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 1))
    given = plan(net, "bnn", example_inputs=torch.zeros(1, 3, 12, 12)).as_dict(short=True)
    for row in given["rows"]:
        row.pop("nonnegative", None), row.pop("activations", None)
    given["swaps"] = [
        {"path": path, "to": "activation", "channels": 8, "blinds": True, "own": False} for path in "13"
    ]
    made = execute(Plan.from_dict(given), net)
    assert isinstance(made[2].quantizer, SignSTE)  # type: ignore[index]
    assert [type(made[i]) for i in (1, 3)] == [nn.Hardtanh, nn.Hardtanh]  # type: ignore[index]


def test_hardtanh_replaces_activations_and_own_keeps_the_sign() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 1))
    x = torch.zeros(1, 3, 12, 12)
    hard = apply(net, "bnn", nonlinearity="hardtanh", example_inputs=x)
    assert isinstance(hard[1], nn.Hardtanh)  # type: ignore[index]
    assert isinstance(hard[2].quantizer, SignSTE)  # type: ignore[index]
    own = apply(net, "bnn", nonlinearity="own", example_inputs=x)
    assert isinstance(own[1], nn.ReLU)  # type: ignore[index]
    assert isinstance(own[2].quantizer, SignSTE)  # type: ignore[index]
