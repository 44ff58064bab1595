"""Convolutions as products of matrices (AMX): what is large enough for them, against the other kernels."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native.test_kernels import QUICK
from torch import Tensor
from torch.nn import functional as F

from binarize import native
from binarize.errors import NativeError
from binarize.native.prepared import PreparedConv
from binarize.runtime import PackedLayer, PackedSpec, QuantizerSpec, RuntimeOptions
from binarize.runtime.kernel_support import rounding_error

pytestmark = pytest.mark.skipif("amx" not in native.features().isas, reason="needs a processor with AMX")


@st.composite
def layers(draw: st.DrawFn) -> dict[str, Any]:
    """A convolution of enough products and positions: lines that share a tile, or are divided."""
    pointwise = draw(st.booleans())
    kernel = (1, 1) if pointwise else draw(st.sampled_from([(3, 3), (2, 5), (5, 1), (7, 7)]))
    inside = draw(st.sampled_from([768, 800] if pointwise else [65, 96, 130, 160, 576]))
    dilation = draw(st.sampled_from([(1, 1), (2, 3), (9, 1)]))
    pads = [
        (0, 0, 0, 0),
        (1, 1, 1, 1),
        (2, 3, 2, 3),
        (4, 9, 4, 9),
        (-1, 2, 3, -2),
    ]  # top, left, bottom, right
    padding = pads[0] if pointwise else draw(st.sampled_from(pads))
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    size = draw(st.sampled_from([(7, 7), (12, 13), (16, 16), (9, 57), (3, 300), (1, 130), (40, 4)]))
    low = [
        max(n, r + 1 - padding[i] - padding[i + 2]) for i, (n, r) in enumerate(zip(size, reach, strict=True))
    ]
    random = torch.Generator().manual_seed(draw(st.integers(0, 1 << 30)))
    groups = draw(st.sampled_from([1, 1, 2]))
    outputs = draw(st.sampled_from([1, 16, 31, 33, 150]))
    return {
        "x": torch.randn(draw(st.integers(1, 3)), groups * inside, *low, generator=random),
        "weight": torch.randn(groups * outputs, inside, *kernel, generator=random),
        "geometry": {
            "stride": draw(st.sampled_from([(1, 1), (2, 2), (1, 3)])),
            "padding": padding,
            "dilation": dilation,
        },
        "groups": groups,
        "threads": draw(st.integers(1, 3)),
        "random": random,
    }


def _plane(layer: dict[str, Any], isa: Any = "amx") -> native.BitPlane:
    top, left, bottom, right = layer["geometry"]["padding"]
    border = (max(top, bottom, 0), max(left, right, 0))
    return native.pack(layer["x"], groups=layer["groups"], border=border, threads=1, isa=isa)


def _epilogue(layer: dict[str, Any], size: tuple[int, ...], features: frozenset[str]) -> dict[str, Any]:
    """Arguments of an epilogue that has these features."""
    images, outputs, random = len(layer["x"]), len(layer["weight"]), layer["random"]
    numbers = [torch.randn(outputs, generator=random) for _ in range(4)]
    given: dict[str, Any] = {"mul": numbers[0], "add": numbers[1]}
    if "activation" in features:
        given["first"] = native.Activation(kind="piecewise", before=numbers[2], negative=numbers[3])
    if "bypass" in features:
        given["bypass"] = torch.randn(images, 24, *size, generator=random)
    if "residual" in features:
        given["residual"] = torch.randn(images, outputs, *size, generator=random)
    if "scale" in features:
        given["sample_scale"] = torch.rand(images, generator=random)
    if "tail" in features:
        given["tail"] = native.Tail(weight=torch.randn(5, outputs, generator=random))
    return given


FEATURES = st.frozensets(st.sampled_from(["activation", "bypass", "residual", "scale", "tail"]))


@given(layer=layers(), features=FEATURES, midpoint=st.sampled_from([0.0, 1.0, -1.0]))
@settings(parent=QUICK, max_examples=30)
def test_the_same_bits_as_by_popcount(
    layer: dict[str, Any], features: frozenset[str], midpoint: float
) -> None:
    results = []
    for isa, threads in (("avx512", 1), ("amx", layer["threads"])):
        weights = native.pack_weights(layer["weight"], groups=layer["groups"], isa=isa, **layer["geometry"])
        plane = _plane(layer, isa)
        size = weights.out_size(plane.height, plane.width)
        state = layer["random"].get_state()
        epilogue = native.Epilogue(midpoint=midpoint, **_epilogue(layer, size, features))
        layer["random"].set_state(state)
        results.append(native.conv(plane, weights, epilogue, threads=threads))
        if not features and not midpoint:
            results.append(native.conv_int(plane, weights, threads=threads))
    half = len(results) // 2
    for popcount, matrices in zip(results[:half], results[half:], strict=True):
        assert torch.equal(popcount, matrices)


@given(layer=layers())
@QUICK
def test_sums_over_positions(layer: dict[str, Any]) -> None:
    weights = native.pack_weights(layer["weight"], groups=layer["groups"], isa="amx", **layer["geometry"])
    plane = _plane(layer)
    size = weights.out_size(plane.height, plane.width)
    found = []
    for threads in (1, 2):
        conv = PreparedConv(weights, plane.struct(), native.Epilogue(), size, threads=threads)
        sums = torch.empty(len(layer["x"]), len(layer["weight"]))
        y = conv(plane.words, sums=sums)
        torch.testing.assert_close(sums, y.double().sum((2, 3)).float(), rtol=1e-4, atol=1e-1)
        found.append(sums)
    assert torch.equal(*found)


def _scaled(layer: dict[str, Any], alpha: Tensor) -> Tensor:
    """Sums of scaled signs in double."""
    signs = torch.where(layer["x"] >= 0, 1.0, -1.0).double() * alpha.double()[..., None, None]
    weight = torch.where(layer["weight"] >= 0, 1.0, -1.0).double()
    top, left, bottom, right = layer["geometry"]["padding"]
    given = {name: layer["geometry"][name] for name in ("stride", "dilation")}
    return F.conv2d(F.pad(signs, (left, right, top, bottom)), weight, groups=layer["groups"], **given)


@given(layer=layers(), exact=st.booleans(), spread=st.booleans())
@QUICK
def test_scales_per_channel(layer: dict[str, Any], exact: bool, spread: bool) -> None:
    weights = native.pack_scaled(layer["weight"], groups=layer["groups"], isa="amx", **layer["geometry"])
    shape = layer["x"].shape[:2]
    random = layer["random"]
    alpha = torch.randn(shape, generator=random)
    alpha = (
        (3 * alpha).exp() * torch.where(torch.rand(shape, generator=random) < 0.5, -1, 1) if spread else alpha
    )
    found = native.conv_scaled(_plane(layer), weights, alpha, exact=exact, threads=layer["threads"])
    expected = _scaled(layer, alpha)
    allowed = 2e-7 if exact else rounding_error(_spec(shape[1], layer["groups"]))
    # each group of an image has a step of its own
    off, sums = (
        t.unflatten(1, (layer["groups"], -1)).square().mean((2, 3, 4)).sqrt()
        for t in (found.double() - expected, expected)
    )
    assert (off <= 2 * allowed * sums).all()  # of few outputs, whose signs are not those of the mean


def _spec(channels: int, groups: int) -> PackedSpec:
    sizes = {"kernel": (1, 1), "stride": (1, 1), "dilation": (1, 1), "padding": ((0, 0), (0, 0))}
    dab = QuantizerSpec(kind="dab", threshold="adaptive", scale="adaptive", granularity="channel")
    return PackedSpec(
        kind="conv", in_channels=channels, out_channels=groups, groups=groups, quantizer=dab, **sizes
    )


def test_no_smaller_error_can_be_stated() -> None:
    """One scale has nearly all of the sum, and all others lie half a step beside the next one."""
    alpha = torch.full((1, 512), 0.5 / 8128)
    alpha[0, 0] = 1.0
    layer = {"x": torch.randn(1, 512, 12, 12), "weight": torch.randn(32, 512, 1, 1), "groups": 1}
    layer |= {"geometry": {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1)}}
    weights = native.pack_scaled(layer["weight"], isa="amx")
    found, expected = native.conv_scaled(_plane(layer), weights, alpha), _scaled(layer, alpha)
    error = (found.double() - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert 0.9 < float(error) / rounding_error(_spec(512, 1)) < 1.05


@pytest.mark.skipif(native.features().isa != "amx", reason="another instruction set was chosen")
@pytest.mark.parametrize("groups", [1, 2])
def test_a_packed_layer_says_what_it_rounds(groups: int) -> None:
    torch.manual_seed(0)
    layer = PackedLayer(_spec(64, groups))
    layer.bits.random_(256)
    layer.vectors.normal_()
    exact = copy.deepcopy(layer)
    exact.options = RuntimeOptions(exact_scales=True)
    x = torch.randn(2, 64, 5, 5)
    off = layer(x) - exact(x)
    assert (layer.tolerance(), exact.tolerance()) == (rounding_error(layer.spec), 0)
    assert 0 < off.square().mean().sqrt() < layer.tolerance() * exact(x).square().mean().sqrt()
    torch.testing.assert_close(exact(x), layer.reference(x), rtol=1e-4, atol=1e-4)


def test_each_group_has_steps_of_its_own() -> None:
    layer = {
        "x": torch.randn(1, 64, 6, 6),
        "weight": torch.randn(64, 32, 1, 1),
        "geometry": {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1)},
        "groups": 2,
    }
    alpha = torch.cat([torch.rand(1, 32) + 0.5, 1e-6 * (torch.rand(1, 32) + 0.5)], 1)
    weights = native.pack_scaled(layer["weight"], groups=2, isa="amx")
    found, expected = native.conv_scaled(_plane(layer), weights, alpha), _scaled(layer, alpha)
    torch.testing.assert_close(found[:, 32:], expected[:, 32:].float(), rtol=1e-2, atol=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 1e-40, 1e-30, 1e30])
@pytest.mark.parametrize("exact", [True, False])
def test_scales_at_the_ends_of_the_range(alpha: float, exact: bool) -> None:
    x, weight = torch.randn(1, 40, 6, 6), torch.randn(8, 40, 3, 3)
    layer = {
        "x": x,
        "weight": weight,
        "geometry": {"stride": 1, "padding": (1, 1, 1, 1), "dilation": 1},
        "groups": 1,
    }
    scales = torch.full((1, 40), alpha)
    weights = native.pack_scaled(weight, padding=1, isa="amx")
    found = native.conv_scaled(_plane(layer), weights, scales, exact=exact)
    expected = _scaled(layer, scales).float()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-43)


def test_more_products_than_a_sum_can_hold_are_refused() -> None:
    plane = native.pack(torch.randn(1, 300_000, 1, 1), isa="amx")
    weights = native.pack_scaled(torch.ones(1, 300_000, 1, 1), isa="amx")
    with pytest.raises(NativeError, match="more taps or channels"):
        native.conv_scaled(plane, weights, torch.ones(1, 300_000))


@given(layer=layers(), features=FEATURES)
@QUICK
def test_scaled_sums_have_the_same_epilogue(layer: dict[str, Any], features: frozenset[str]) -> None:
    alpha = torch.randn(layer["x"].shape[:2], generator=layer["random"])
    results = []
    state = layer["random"].get_state()
    for isa in ("avx512", "amx"):
        weights = native.pack_scaled(layer["weight"], groups=layer["groups"], isa=isa, **layer["geometry"])
        plane = _plane(layer, isa)
        size = weights.out_size(plane.height, plane.width)
        epilogue = native.Epilogue(**_epilogue(layer, size, features))
        layer["random"].set_state(state)
        results.append(native.conv_scaled(plane, weights, alpha, epilogue, exact=True, threads=1))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scales_that_are_not_finite_are_refused(value: float) -> None:
    plane = native.pack(torch.randn(1, 64, 6, 6), isa="amx")
    weights = native.pack_scaled(torch.randn(32, 64, 1, 1), isa="amx")
    with pytest.raises(NativeError, match="not finite"):
        native.conv_scaled(plane, weights, torch.full((1, 64), value))
