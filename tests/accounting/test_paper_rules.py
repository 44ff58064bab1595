"""The convention `paper` rule by rule, on small networks, against numbers written out here."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor, nn

import binarize
from binarize.accounting import summary
from binarize.files import create_timm
from binarize.layers import BiasPReLU, BinaryConv2d, BinaryLinear, Maxout, RPReLU
from binarize.methods import BiDense


def coarse(*layers: nn.Module) -> nn.Module:
    """Behind a pooling, so that nothing of it works at the resolution of the image."""
    return nn.Sequential(nn.MaxPool2d(2), *layers)


def float_ops(*layers: nn.Module) -> int:
    return sum(n.float_macs for n in summary(coarse(*layers), (6, 8, 8), "paper").layers if n.name != "0")


@pytest.mark.parametrize(
    ("layer", "per_element"),
    [
        (nn.ReLU(), 1),
        (nn.Hardtanh(), 1),
        (nn.PReLU(6), 1),
        (nn.GELU(), 7),
        (nn.SiLU(), 7),
        (nn.Sigmoid(), 4),
        (BiasPReLU(6), 2),
        (RPReLU(6), 2),
        (Maxout(6), 2),
        (nn.BatchNorm2d(6), 2),
        (nn.GroupNorm(2, 6), 2),
        (nn.Identity(), 0),
        (nn.Upsample(scale_factor=1, mode="bilinear"), 0),
        (nn.AvgPool2d(1), 1),
    ],
)
def test_elementwise(layer: nn.Module, per_element: int) -> None:
    assert float_ops(layer) == per_element * 6 * 16


@pytest.mark.parametrize(
    ("layer", "operations"),
    [
        (nn.AvgPool2d(2), 6 * 4),
        (nn.MaxPool2d(2), 6 * 4),
        (nn.AdaptiveAvgPool2d(1), 6 * (16 + 1)),
        (nn.AdaptiveAvgPool2d(2), 6 * 4 * (4 + 1)),
        (nn.AdaptiveAvgPool2d((1, 3)), 6 * 3 * (4 + 1)),  # floor(4 / 1) * floor(4 / 3)
    ],
)
def test_pooling(layer: nn.Module, operations: int) -> None:
    assert float_ops(layer) == operations


class Gated(nn.Module):
    """x + scale * x * gate, with a bias on each channel that does not count."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6, 1, 1))
        self.bias = nn.Parameter(torch.zeros(6, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        gate = x.mean((2, 3), keepdim=True)
        return x + self.scale * x * gate + self.bias * 2


def test_sums_of_maps_and_products() -> None:
    pooling = 6 * (16 + 1)
    assert float_ops(Gated()) == 6 * 16 * (1 + 1 + 1) + pooling


def test_convolutions_are_dense_and_count_twice() -> None:
    assert float_ops(nn.Conv2d(6, 6, 3, padding=1, groups=6)) == 2 * 16 * 6 * 6 * 9


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("method", "options", "per_input"),
    [
        ("bnn", {}, 0),
        ("reactnet", {}, 2),  # shift, scale of the weights
        ("adabin", {}, 4 + 2),
        ("bisrnet", {}, 2 + 1),
        ("bidense", {}, 5),
        ("bidense", {"threshold": "b"}, 4),
        ("bidense", {"threshold": "mean"}, 5),
        ("bidense", {"threshold": "none"}, 3),
        ("bidense", {"scale": "none"}, 3),
        ("bidense", {"scale": "mad"}, 5),
        ("bidense", {"scale": "learned"}, 4),
        ("bidense", {"binarizer": "sign"}, 1),
    ],
)
def test_binary_layer(method: str, options: dict[str, str], per_input: int, stride: int) -> None:
    layer = BinaryConv2d(6, 10, 3, stride, padding=1, method=method, norm=False, bypass=False, **options)
    row = summary(coarse(layer), (6, 8, 8), "paper").layers[-1]
    positions = 16 // stride**2
    assert row.binary_macs == 2 * positions * 10 * 6 * 9
    assert row.float_macs == per_input * positions * 6  # input channels at output positions


@pytest.mark.parametrize("kind", ["pointwise", "token"])
def test_binary_linear_layer(kind: Literal["pointwise", "token"]) -> None:
    layer = BinaryLinear(6, 10, kind=kind, method="reactnet", norm=False, bypass=False)
    x = torch.zeros(1, 4, 4, 6) if kind == "pointwise" else torch.zeros(1, 16, 6)
    result = summary(layer, (x,), "paper")
    assert (result.binary_macs, result.float_macs) == (2 * 16 * 6 * 10, 2 * 16 * 6)


@pytest.mark.parametrize(
    ("cout", "stride", "per_output", "pooled"),
    [(6, 1, 1, 0), (12, 1, 2, 0), (15, 1, 2, 0), (4, 1, 2, 0), (6, 2, 1, 6), (12, 2, 2, 6)],
)
def test_bypass(cout: int, stride: int, per_output: int, pooled: int) -> None:
    def ops(bypass: bool) -> int:
        layer = BinaryConv2d(6, cout, stride, stride=stride, method=BiDense(), bypass=bypass)
        return float_ops(layer)

    assert ops(True) - ops(False) == (per_output * cout + pooled) * (4 // stride) ** 2


def test_a_layer_of_units() -> None:
    # two units RPReLU(conv) + x behind an average pooling: shift and slope 2, scale 1, activation 2, sum 1
    net = coarse(
        nn.Conv2d(6, 6, 1, bias=False), nn.Conv2d(6, 12, 2, stride=2), nn.Conv2d(12, 2, 1, bias=False)
    )
    binary = binarize.apply(net, "bisrnet", example_inputs=torch.rand(1, 6, 8, 8))
    rows = [n for n in summary(binary, (6, 8, 8), "paper").layers if n.name.split(".")[0] == "2"]
    assert sum(n.float_macs or 0 for n in rows) == 6 * 4 + 2 * 6 * 4 * (2 + 1 + 2 + 1)
    assert sum(n.binary_macs or 0 for n in rows) == 2 * 2 * 6 * 6 * 9 * 4


class Segmenter(nn.Module):
    """A stem, a binary layer called twice, a head at the resolution of the image."""

    def __init__(self, binary: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 2, stride=2)
        self.body = (
            BinaryConv2d(8, 8, 3, padding=1, method="bnn")
            if binary
            else nn.Conv2d(8, 8, 3, padding=1, bias=False)
        )
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.final = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(self.body(self.stem(x)))
        y = nn.functional.interpolate(y, x.shape[2:])
        return self.final(torch.relu(self.norm(self.conv(y))))


def test_a_float_network() -> None:
    result = summary(Segmenter(binary=False), 16, "paper")
    assert result.binary_params == result.binary_macs == 0
    assert result.float_params == (96 + 8) + 2 * 576 + 576 + (4 * 8 + 1) + (40 + 5)
    assert result.float_macs == 2 * 64 * (96 + 2 * 576)  # no head


def test_a_binary_network() -> None:
    result = summary(Segmenter(binary=True), 16, "paper")
    # the final weight counts as binary, the stem's does not; the layer called twice counts twice, with its BN
    assert result.binary_params == 2 * 576 + 40
    assert result.float_params == (96 + 8) + 2 * (4 * 8 + 1) + 576 + (4 * 8 + 1) + 5
    # in operations the stem is binary
    assert result.binary_macs == 2 * 64 * (96 + 2 * 576)
    assert result.float_macs == 2 * 2 * 64 * 8  # the layer's BN, twice


def test_the_stem_counts_as_the_first_binary_layer_does() -> None:
    net = Segmenter(binary=True)
    net.body = BinaryConv2d(8, 8, 3, padding=1, method="bidense", norm=False)
    result = summary(net, 16, "paper")
    assert result.binary_macs == 2 * 64 * (96 + 2 * 576)
    # 5 for each input channel, stem included; the bypass of the layer called twice, also behind its last call
    assert result.float_macs == 64 * (5 * 3 + 2 * (5 * 8 + 8))


class Upsampled(nn.Module):
    """A binary layer at the resolution of the image, behind one at half of it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 2, stride=2, bias=False)
        self.head = BinaryConv2d(8, 8, 3, padding=1, method="bidense")
        self.scale = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.interpolate(self.stem(x) * self.scale, x.shape[2:])
        return self.head(y) * (self.scale * self.scale) * y.mean((2, 3), keepdim=True)


def test_small_numbers_at_the_resolution_of_the_image_are_no_layer() -> None:
    result = summary(Upsampled(), 16, "paper")  # statistics of the DAB, products, a mean
    assert {n.name: n.float_macs for n in result.layers if n.float_macs} == {"": 64 * 8, "stem": 5 * 3 * 64}


@pytest.mark.slow
def test_slips_are_those_of_upernet_only() -> None:
    # a ConvNeXt block outside UPerNet: both norms behind pointwise layers, 2 for the activation in a block
    with torch.device("meta"):
        net = create_timm("convnext_atto", num_classes=5)
    binary = binarize.apply(net, "reactnet", form="table")
    rows = {n.name: n.float_macs for n in summary(binary, 64, "paper").layers}
    block = "stages.0.blocks.0.mlp"
    assert rows[f"{block}.fc1"] == 256 * (2 * 40 + 2 * 160)
    assert rows[f"{block}.act"] == 256 * 2 * 160
    assert rows[f"{block}.fc2"] == 256 * (2 * 160 + 2 * 40)


@pytest.mark.slow
def test_decoder_slips_in_upernet_on_another_encoder() -> None:
    with torch.device("meta"):
        net = binarize.networks.upernet("resnet18", num_classes=5)
    result = summary(binarize.apply(net, "bidense"), 64, "paper")
    rows = {n.name: (n.binary_macs, n.float_macs) for n in result.layers}
    first, last = 256, 4  # positions of the finest and the coarsest map
    for i in range(4):  # pyramid pooling at the size of the map, 512 -> 128
        assert rows[f"psp.branches.{i}.conv"] == (2 * 512 * 128 * last, last * (5 * 512 + 4 * 128))
    assert rows["fpn.laterals.0"] == (2 * 128 * 64 * 64, 64 * (5 * 128 + 2 * 64) + 2 * 64 * first)
    assert rows["fpn.laterals.2"] == (2 * 512 * 64 * 4, 4 * (5 * 512 + 2 * 64) + 2 * 64 * 16)
    assert rows["fpn.fusion.conv"] == (2 * 64 * 64 * 9 * first, first * 64 * (5 + 2 + 1))


def test_a_network_at_one_resolution_has_no_head() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(4, 2, 1, bias=False))
    assert summary(net, 8, "paper").float_macs == 64 * (2 * 108 + 4 + 2 * 8)


def test_a_quantizer_without_a_rule_is_said() -> None:
    layer = BinaryConv2d(6, 6, 1, method="bnn", norm=False)
    layer.quantizer = nn.Hardtanh()
    (item,) = summary(coarse(layer), (6, 8, 8), "paper").uncounted
    assert item.reason == "no rule counts the quantizer Hardtanh"
