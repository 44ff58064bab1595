"""Parameters and operations of the networks of Tables 1 and 4 of BiDense, in both conventions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

import binarize
from binarize.accounting import Summary, summary


@cache
def upernet() -> nn.Module:
    with torch.device("meta"):  # counting needs shapes only
        return binarize.networks.upernet("convnext_tiny", num_classes=151)


@cache
def counted(convention: str, method: str | None = None, **options: Any) -> Summary:
    return summary(network(method, **options), 480, convention)


@cache
def network(method: str | None = None, **options: Any) -> nn.Module:
    if method is None:
        return upernet()
    return binarize.apply(upernet(), method=method, form="table", **options)


HONEST = {
    "bnn": (39_759_840, 152_695),
    "reactnet": (39_759_840, 214_519),
    "adabin": (39_759_840, 167_489),
    "bisrnet": (41_695_200, 264_351),
    "bidense": (39_759_840, 308_663),
}
"""Method: binary weights, float parameters."""

# Printed: parameters in thousands, operations in 1e9 (bidense ablation rows: Table 4).
TABLE_1 = {
    "bnn": (1470, 4.84),
    "reactnet": (1531, 4.98),
    "adabin": (1484, 5.24),
    "bisrnet": (1639, 5.07),
    "bidense": (1626, 5.37),
}
TABLE_4 = {
    1: (1484, 5.11),
    2: (1626, 5.28),
    3: (1531, 5.24),
    4: (1579, 5.31),
    5: (1579, 5.37),
    6: (1579, 5.24),
    7: (1579, 5.37),
    8: (1626, 5.31),
}
FAST = "bidense"
METHODS = [m if m == FAST else pytest.param(m, marks=pytest.mark.slow) for m in HONEST]
SPELLED = [None, *(pytest.param(m, marks=pytest.mark.slow) for m in ("bidense", "reactnet"))]
PRINTED = [m if m == FAST else pytest.param(m, marks=pytest.mark.slow) for m in TABLE_1]


@pytest.mark.parametrize("method", METHODS)
def test_honest_counts(method: str) -> None:
    result = counted("honest", method)
    assert (result.binary_params, result.float_params) == HONEST[method]
    assert result.uncounted == ()
    assert result.float_macs == 120**2 * 96 * 48 + 480**2 * 128 * 151  # stem and classifier
    if method == "bisrnet":  # six 3x3 units at the transitions instead of three 2x2 convolutions
        units = sum((2 * 9 - 8) * c * c * (480 // s) ** 2 for c, s in ((96, 8), (192, 16), (384, 32)))
        assert result.binary_macs == counted("honest", FAST).binary_macs + units
    else:
        assert round(result.binary_macs / 1e9, 2) == 64.81


def test_bidense_against_the_float_network() -> None:
    result = counted("honest", "bidense")
    assert round(result.params / 1e3) == 1551
    assert round(result.ops / 1e9, 2) == 5.53
    assert round(counted("honest").ops / result.ops, 1) == 12.5


def printed(result: Summary) -> tuple[int, float]:
    assert result.uncounted == ()
    return round(result.params / 1e3), round(result.ops / 1e9, 2)


@pytest.mark.parametrize("method", PRINTED)
def test_printed_binary_networks(method: str) -> None:
    assert printed(counted("paper", method)) == TABLE_1[method]


def test_printed_float_network() -> None:
    assert printed(counted("paper")) == (40_020, 288.36)


def test_printed_float_network_from_scratch() -> None:
    # the row's decoder has a batch norm behind every convolution
    with torch.device("meta"):
        net = binarize.networks.upernet("convnext_tiny", num_classes=151)
        net.fpn.laterals = nn.ModuleList(nn.Sequential(conv, nn.BatchNorm2d(96)) for conv in net.fpn.laterals)
        net.fpn.smooth = nn.Sequential(net.fpn.smooth, nn.BatchNorm2d(96))
        net.out = nn.Sequential(net.out, nn.BatchNorm2d(128))
    assert printed(summary(net, 480, "paper")) == (40_023, 288.37)


@pytest.mark.slow
@pytest.mark.parametrize("ablation", TABLE_4)
def test_printed_ablations(ablation: int) -> None:
    assert printed(counted("paper", "bidense", ablation=ablation)) == TABLE_4[ablation]


def written_out(
    method: str | None, dims: Sequence[int], depths: Sequence[int], size: tuple[int, int]
) -> float:
    """The operations of a UPerNet on a ConvNeXt, as the authors' counter has them."""
    c1, c4, sizes = dims[0], dims[-1], [(size[0] // s, size[1] // s) for s in (4, 8, 16, 32)]
    n = [h * w for h, w in sizes]
    width = c4 // 4
    levels = list(zip(dims, depths, n, strict=True))
    blocks = sum(d * c * m for c, d, m in levels)
    down = [(dims[i - 1], dims[i], n[i - 1], n[i]) for i in (1, 2, 3)]
    convs = [(3, c1, 16, n[0])]  # Cin, Cout, kernel positions, output positions
    convs += [(cin, cout, 4, m) for cin, cout, _, m in down]
    for c, d, m in levels:
        convs += d * [(c, c, 49, m), (c, 4 * c, 1, m), (4 * c, c, 1, m)]
    convs += 4 * [(c4, width, 1, n[3])]  # slip: not at the bins' size
    convs += [(c4 + 4 * width, c4, 9, n[3])]
    convs += [(dims[i], c1, 1, n[i]) for i in (1, 2, 3)] + [(c1, c1, 9, m) for m in n[:3]]
    convs += [(c1, c1, 9, n[0])]  # slip: fusion, 4 c1 -> c1
    convs += [(c1, 128, 9, n[0])]
    macs = sum(cin * cout * k * m for cin, cout, k, m in convs)
    inputs = sum(cin * m for cin, _, _, m in convs)
    h, w = sizes[3]
    ops = sum(c4 * b * b * ((h // b) * (w // b) + 1) for b in (1, 2, 4, 6))  # pyramid pooling
    ops += c1 * sum(n[:3])  # sums in the pyramid
    ops += 7 * 4 * blocks  # slip: GELU in all of them
    decoder_acts = (4 * width + c4) * n[3] + c1 * n[0]
    if method is None:
        norms = c1 * n[0] + blocks + sum(cin * m for cin, _, m, _ in down) + decoder_acts
        return ops + 2 * macs + 2 * norms + decoder_acts + 2 * blocks  # layer scale, residuals
    ops += 2 * macs / 64 + 2 * decoder_acts
    smooth = c1 * sum(n[:3])
    lateral_norms = smooth  # slip: one level finer
    if method == "reactnet":
        # slips: norms of the float ConvNeXt; no sums around smoothing convolutions
        norms = c1 * n[0] + blocks + sum(cin * m for cin, _, m, _ in down) + decoder_acts
        return ops + 2 * inputs + 2 * (norms + lateral_norms + smooth + 128 * n[0]) + 2 * blocks
    outputs = sum(cout * m for _, cout, _, m in convs)
    laterals = c1 * sum(n[1:])
    equal = blocks + smooth + c1 * n[0]  # bypasses around depthwise, smoothing and fusion: one sum
    pooled = sum(cin * m for cin, _, _, m in down)
    bypasses = 2 * (outputs - c1 * n[0]) - equal + pooled  # the stem has none
    return ops + 5 * inputs + 2 * (outputs - laterals + lateral_norms) + bypasses


@pytest.mark.parametrize("method", SPELLED)
def test_operations_written_out(method: str | None) -> None:
    assert counted("paper", method).ops == written_out(method, (96, 192, 384, 768), (3, 3, 9, 3), (480, 480))


@pytest.mark.parametrize("method", SPELLED)
def test_operations_of_another_encoder_and_size(method: str | None) -> None:
    with torch.device("meta"):
        net = binarize.networks.upernet("convnext_atto", num_classes=7)
    if method is not None:
        net = binarize.apply(net, method=method, form="table")
    expected = written_out(method, (40, 80, 160, 320), (2, 2, 6, 2), (96, 160))
    assert summary(net, (96, 160), "paper").ops == expected
