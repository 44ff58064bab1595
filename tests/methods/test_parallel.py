"""Methods whose layers are several binary ones side by side: Group-Net and CBNN."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from timm.layers import Conv2dSame, StdConv2d
from torch import Tensor, nn
from torch.nn import functional as F

import binarize
from binarize.errors import ConfigError
from binarize.layers import BinaryConv2d, BinaryLayer, BinaryLinear, Piecewise
from binarize.methods import create
from binarize.methods.parallel import ParallelSum
from binarize.runtime import PackedLayer, fusions
from binarize.runtime.verify import verify
from binarize.testing import check_method

METHODS = ("groupnet", "cbnn")


def ste(value: Tensor, surrogate: Tensor) -> Tensor:
    return value.detach() + surrogate - surrogate.detach()


def step(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


def approximate(x: Tensor) -> Tensor:
    """The sign, with the gradient 2 - 2 abs(x) inside of (-1, 1)."""
    u = x.clamp(-1, 1)
    return ste(step(x), 2 * u - u * u.abs())


def normed(y: Tensor, norm: Any) -> Tensor:
    return F.batch_norm(y, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)


def group_net(layer: Any, x: Tensor, spread: int = 0) -> Tensor:
    """A 3x3 layer with padding 1 and stride 1."""
    total = x
    for number, base in enumerate(layer.branches):
        w, wide = base.weight, 1 + number * spread
        seen = F.pad(approximate(x), (wide,) * 4, value=1.0)
        y = F.conv2d(seen, ste(w.abs().mean() * step(w), w), dilation=wide)
        total = total + base.inner.scale * normed(F.relu(y), base.inner.norm)
    return total


def cellular(layer: Any, x: Tensor) -> Tensor:
    outputs = []
    for branch in layer.branches:
        w, act = branch.weight, branch.inner.act
        binary = ste(w.abs().mean((1, 2, 3), True) * step(w), w.clamp(-1, 1))
        y = normed(F.conv2d(approximate(x + branch.quantizer.beta), binary, padding=1), branch.norm)
        outputs.append(F.prelu(y + act.b0, act.weight) + act.b1)
    (one, two), (link_1, link_2) = outputs, (branch.inner.link for branch in layer.branches)
    return ((one + link_2 * two) + (two + link_1 * one)) / 2 + x


@pytest.mark.parametrize(
    ("method", "options", "formula"),
    [
        ("groupnet", {}, group_net),
        ("groupnet", {"bases": 2}, group_net),
        ("groupnet", {"bases": 3, "dilated": True}, lambda layer, x: group_net(layer, x, 1)),
        ("cbnn", {}, cellular),
    ],
)
def test_forward_and_gradients_are_those_of_the_formula(
    method: str, options: dict[str, Any], formula: Any
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 5, 3, padding=1).double()  # an odd number of signs: no sum is 0, the kink of relu
    nn.init.normal_(conv.weight, 0, 0.8)  # on both sides of where surrogates end
    layer = binarize.binary_layer(conv, method, **options)
    for parameter in layer.parameters():
        if parameter.dim() != 4 or parameter.shape[0] == 1:
            nn.init.uniform_(parameter, 0.3, 1.2)
    x = torch.randn(3, 5, 6, 7, dtype=torch.double, requires_grad=True)
    upstream = torch.randn(3, 5, 6, 7, dtype=torch.double)
    inputs = [x, *layer.parameters()]
    y, expected = layer(x), formula(layer, x)
    torch.testing.assert_close(y, expected)
    found = torch.autograd.grad(y, inputs, upstream)
    for mine, other in zip(found, torch.autograd.grad(expected, inputs, upstream), strict=True):
        torch.testing.assert_close(mine, other)


def test_bases_start_from_what_those_before_left_of_the_weights() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 6, 3)
    layer: Any = binarize.binary_layer(conv, "groupnet")
    w = conv.weight.detach()
    rest, errors, sizes = w, [], []
    for base in layer.branches:
        torch.testing.assert_close(base.weight.detach(), rest)
        sizes.append(float(rest.abs().mean()))
        rest = rest - base.binary_weight()
        errors.append(float(rest.square().mean() / w.square().mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.05  # together they come near to the float weights
    scales = [float(base.inner.scale.detach()) for base in layer.branches]
    assert scales == pytest.approx([size / sum(sizes) for size in sizes])
    two: Any = binarize.binary_layer(conv, "cbnn")
    torch.testing.assert_close(two.branches[0].weight.detach(), w)
    expected = w - w.abs().mean((1, 2, 3), True) * step(w)
    torch.testing.assert_close(two.branches[1].weight.detach(), expected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 0.25])
def test_where_nothing_is_left_bases_start_from_noise(method: str, value: float) -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1)
    nn.init.constant_(conv.weight, value)
    layer: Any = binarize.binary_layer(conv, method)
    filled = [bool(branch.weight.any()) for branch in layer.branches]
    assert all(filled)
    layer(torch.randn(2, 4, 5, 5)).square().mean().backward()
    assert all(bool(p.grad.isfinite().all()) for p in layer.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_fresh_layers_have_the_size_of_their_input_in_evaluation_mode_too(method: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 32, 8, 8)
    for conv in (
        nn.Conv2d(32, 64, 3, padding=1),
        nn.Conv2d(32, 32, 5, padding=2, groups=32),
        nn.ConvTranspose2d(32, 16, 2, 2),
    ):
        layer = binarize.binary_layer(conv, method, bypass=False)
        trained, fresh = (float(layer.train(mode)(x).detach().std()) for mode in (True, False))
        torch.testing.assert_close(trained, fresh, rtol=0.3, atol=0)
        assert 0.2 < trained < 1.5


KINDS: dict[str, tuple[nn.Module, tuple[int, ...], dict[str, Any]]] = {
    "stride": (nn.Conv2d(6, 6, 3, 2, 1), (2, 6, 9, 8), {}),
    "groups": (nn.Conv2d(6, 12, 3, padding=1, groups=3), (2, 6, 9, 8), {}),
    "reflect": (nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect"), (2, 6, 9, 8), {}),
    "same": (Conv2dSame(6, 6, 3, 2), (2, 6, 9, 8), {}),
    "standardized": (StdConv2d(6, 6, 3, padding=1), (2, 6, 9, 8), {}),
    "text": (nn.Conv2d(6, 6, 3, padding="same", dilation=2), (2, 6, 9, 8), {}),
    "one dim": (nn.Conv1d(6, 9, 5, padding=2), (2, 6, 11), {}),
    "transposed": (nn.ConvTranspose2d(6, 4, 3, 2, 1, 1), (2, 6, 5, 4), {}),
    "pointwise": (nn.Linear(6, 6), (2, 5, 4, 6), {"kind": "pointwise"}),
    "token": (nn.Linear(6, 12), (2, 5, 6), {}),
    "vector": (nn.Linear(6, 6), (1, 6), {}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", [("groupnet", {}), ("groupnet", {"dilated": True}), ("cbnn", {})])
def test_layers_of_each_kind_are_packed(method: tuple[str, dict[str, Any]], kind: str) -> None:
    torch.manual_seed(0)
    float_layer, shape, given = KINDS[kind]
    layer = binarize.binary_layer(float_layer, method[0], **method[1], **given)
    assert isinstance(layer, ParallelSum)
    net, x = nn.Sequential(layer), torch.randn(shape)
    for _ in range(2):
        assert net(x).shape == float_layer(x).shape
    packed = binarize.deploy(net.eval())
    assert not packed.deploy_report.refused
    assert sum(isinstance(m, PackedLayer) for m in packed.modules()) == len(layer.branches)
    with torch.no_grad():
        torch.testing.assert_close(packed(x), net(x), rtol=1e-4, atol=1e-5)


def test_padded_positions_are_plus_one() -> None:
    conv = nn.Conv2d(3, 3, 3, padding=1)
    layer: Any = binarize.binary_layer(conv, "groupnet", bypass=False, norm=False).eval()
    for base in layer.branches:
        nn.init.constant_(base.inner.scale, 1.0)
    with torch.no_grad():
        centre, border = layer(torch.ones(1, 3, 7, 7))[0, :, 3, 3], layer(torch.ones(1, 3, 7, 7))[0, :, 0, 0]
    torch.testing.assert_close(centre, border)


def test_what_is_left_out() -> None:
    layer: Any = binarize.binary_layer(nn.Conv2d(4, 4, 3, padding=1), "groupnet", norm=False, bypass=False)
    assert layer.bypass is None
    assert all(base.inner.norm is None for base in layer.branches)
    other: Any = binarize.binary_layer(nn.Conv2d(4, 4, 3, padding=1), "cbnn", norm=False, bypass=False)
    assert other.bypass is None
    assert all(branch.norm is None for branch in other.branches)
    chosen: Any = binarize.binary_layer(nn.Conv2d(4, 6, 3, padding=1), "cbnn", bypass="cfb")
    assert chosen.bypass is not None
    assert binarize.binary_layer(nn.Conv2d(4, 6, 3), "cbnn").bypass is None  # type: ignore[union-attr]


@pytest.mark.parametrize("method", METHODS)
def test_single_layers_say_who_builds_several(method: str) -> None:
    with pytest.raises(ConfigError, match=r"several binary layers.*binary_layer\(nn\.Conv2d"):
        BinaryConv2d(4, 4, 3, method=method)
    with pytest.raises(ConfigError, match=r"binary_layer\(nn\.Linear"):
        BinaryLinear(4, 4, method=method)
    with pytest.raises(ConfigError, match=f"{method}: bypass='bisrnet'.*cfb"):
        create(method, bypass="bisrnet")


def test_options_of_groupnet() -> None:
    for bases in (0, 65):
        with pytest.raises(ConfigError, match="expected 1 to 64"):
            create("groupnet", bases=bases)
    check_method(create("groupnet", bases=1))
    check_method(create("groupnet", bases=3, dilated=True))
    wide: Any = binarize.binary_layer(nn.Conv2d(4, 4, 3, 2, padding=1), "groupnet", dilated=True)
    assert [base.dilation for base in wide.branches] == [(n, n) for n in range(1, 6)]
    even: Any = binarize.binary_layer(nn.Conv2d(4, 4, 2, 2), "groupnet", dilated=True)
    assert {base.dilation for base in even.branches} == {(1, 1)}


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.conv2, self.norm2 = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))) + x)


class Net(nn.Module):
    """Blocks with a residual, a change of channels, and a branch whose sum stays."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.block, self.wide = Block(16), nn.Conv2d(16, 24, 1)
        self.gated, self.gate = nn.Conv2d(24, 24, 1), nn.Parameter(torch.ones(24, 1, 1))
        self.head = nn.Conv2d(24, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.wide(self.block(self.stem(x)))
        return self.head(x + torch.sigmoid(x * self.gate) * self.gated(x))


@pytest.mark.parametrize(("method", "count"), [("groupnet", 5), ("cbnn", 2)])
def test_networks_from_plan_to_program(method: str, count: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = Net(), torch.randn(2, 3, 16, 16)
    made = binarize.plan(net, method, example_inputs=x)
    rows = {row.name: row.bypass for row in made.converted}
    expected = {"block.conv1": "identity", "block.conv2": "identity", "wide": "none", "gated": "none"}
    assert rows == expected  # the bypass alone, or its loss, decides nothing about the bases
    model: Any = binarize.apply(net, method, example_inputs=x).train()
    for name in rows:
        layer: Any = model.get_submodule(name)
        assert (len(layer.branches), layer.bypass is not None) == (count, rows[name] == "identity")
        assert (layer.in_channels, layer.weight.shape) == (
            net.get_submodule(name).in_channels,
            net.get_submodule(name).weight.shape,
        )
    model(x).square().mean().backward()
    model.eval()
    weights = sum(net.get_submodule(name).weight.numel() for name in rows)
    totals = binarize.summary(model, (3, 16, 16))
    assert totals.binary_params == count * weights
    assert totals.binary_macs == count * weights * 16 * 16
    packed = binarize.deploy(model)
    assert not packed.deploy_report.refused
    assert all(error.agrees for error in verify(model, packed, [x]).layers)
    inner = [m.inner for m in packed.modules() if isinstance(m, PackedLayer)]
    assert all(isinstance(one, Piecewise) for one in inner)
    report = str(fusions(packed, x))
    assert "residual" in report
    assert "packed layer adds another map" not in report
    binarize.save(packed, tmp_path / "p.safetensors", packed=True)
    header = json.loads(safe_open(tmp_path / "p.safetensors", "pt").metadata()["binarize"])
    assert header["version"] == 3  # readers of 2 do not know `piecewise`
    again = binarize.load(tmp_path / "p.safetensors", model=Net())
    with torch.no_grad():
        assert torch.equal(again(x), binarize.deploy(model)(x))


@pytest.mark.parametrize("method", METHODS)
def test_shared_weights_stay_shared(method: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 2, 1))
    net[2].weight = net[1].weight
    made = binarize.plan(net, method, example_inputs=torch.randn(1, 3, 12, 12))
    assert not any("shared one weight" in str(note) for note in made.notes)
    model: Any = binarize.apply(net, method, example_inputs=torch.randn(1, 3, 12, 12))
    for one, two in zip(model[1].branches, model[2].branches, strict=True):
        assert isinstance(one, BinaryLayer)
        assert one.weight is two.weight


def test_bases_whose_norm_cannot_be_folded_stay_float() -> None:
    layer: Any = binarize.binary_layer(nn.Conv2d(4, 4, 3, padding=1), "groupnet", bases=3)
    layer.branches[1].inner.norm = nn.BatchNorm2d(4, track_running_stats=False)
    layer.branches[2].inner.norm = nn.GroupNorm(2, 4)
    net, x = nn.Sequential(layer).eval(), torch.randn(2, 4, 6, 6)
    packed: Any = binarize.deploy(net)
    refused = packed.deploy_report.refused
    assert list(refused) == ["0.branches.1", "0.branches.2"]
    assert "no running statistics" in refused["0.branches.1"]
    assert "GroupNorm is not a BatchNorm" in refused["0.branches.2"]
    with torch.no_grad():
        torch.testing.assert_close(packed(x), net(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_hooks_on_the_activation_inside_keep_it_as_it_is(method: str) -> None:
    layer: Any = binarize.binary_layer(nn.Conv2d(4, 4, 3, padding=1), method)
    layer.branches[1].inner.register_forward_hook(lambda module, args, y: y * 2)
    net, x = nn.Sequential(layer).eval(), torch.randn(1, 4, 6, 6)
    packed: Any = binarize.deploy(net)
    assert not isinstance(packed[0].branches[1].inner, Piecewise)
    with torch.no_grad():
        torch.testing.assert_close(packed(x), net(x), rtol=1e-4, atol=1e-5)
