"""The convention `paper` rule by rule, on small networks, against numbers written out here."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from binarize.accounting import summary
from binarize.layers import BiasPReLU, BinaryConv2d, Maxout, RPReLU
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
        (nn.GELU(), 5),
        (nn.Sigmoid(), 5),
        (BiasPReLU(6), 5),
        (RPReLU(6), 6),
        (Maxout(6), 5),
        (nn.BatchNorm2d(6), 2),
        (nn.GroupNorm(2, 6), 2),
        (nn.Identity(), 0),
        (nn.AvgPool2d(1), 1),
    ],
)
def test_elementwise(layer: nn.Module, per_element: int) -> None:
    assert float_ops(layer) == per_element * 6 * 16


def test_convolutions_are_dense_and_count_twice() -> None:
    assert float_ops(nn.Conv2d(6, 6, 3, padding=1, groups=6)) == 2 * 16 * 6 * 6 * 9


@pytest.mark.parametrize(
    ("method", "options", "per_output"),
    [
        ("bnn", {}, 0),
        ("reactnet", {}, 2),  # shift, scale of the weights
        ("adabin", {}, 4 + 2),
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
def test_binary_layer(method: str, options: dict[str, str], per_output: int) -> None:
    layer = BinaryConv2d(6, 10, 3, padding=1, method=method, norm=False, bypass=False, **options)
    row = summary(coarse(layer), (6, 8, 8), "paper").layers[-1]
    assert row.binary_macs == 2 * 16 * 10 * 6 * 9
    assert row.float_macs == per_output * 16 * 10


@pytest.mark.parametrize(
    ("cout", "stride", "copied", "merged", "pooled"),
    [(6, 1, 0, 0, 0), (12, 1, 12, 0, 0), (15, 1, 12, 6, 0), (4, 1, 0, 6, 0), (12, 2, 12, 0, 16 * 6)],
)
def test_bypass(cout: int, stride: int, copied: int, merged: int, pooled: int) -> None:
    def ops(bypass: bool) -> int:
        layer = BinaryConv2d(6, cout, stride, stride=stride, method=BiDense(), bypass=bypass)
        return float_ops(layer)

    assert ops(True) - ops(False) == (copied + merged) * (4 // stride) ** 2 + pooled


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


def test_a_network_at_one_resolution_has_no_head() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(4, 2, 1, bias=False))
    assert summary(net, 8, "paper").float_macs == 64 * (2 * 108 + 4 + 2 * 8)


def test_a_quantizer_without_a_rule_is_said() -> None:
    layer = BinaryConv2d(6, 6, 1, method="bnn", norm=False)
    layer.quantizer = nn.Hardtanh()
    (item,) = summary(coarse(layer), (6, 8, 8), "paper").uncounted
    assert item.reason == "no rule counts the quantizer Hardtanh"
