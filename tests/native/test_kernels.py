"""The kernels against integer and double references, on every instruction set."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from native.reference import finish, signs
from native.steps import blank, layer_of, layer_step, map_of, must
from torch import Tensor
from torch.nn import functional as F

from binarize import native
from binarize.errors import NativeError
from binarize.functional.dab import group_bounds
from binarize.native import instruction_set, library
from binarize.native.prepared import PreparedConv, PreparedPack
from binarize.native.structs import SLACK
from native import reference

pytestmark = pytest.mark.skipif(not native.available(), reason="the native kernels are not built")
ISAS = native.features().isas
QUICK = settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))

pair = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def layers(draw: st.DrawFn, *, grouped: bool = True, kernel: int = 4) -> dict[str, Any]:
    """Geometry and data of a convolution that has an output."""
    groups = draw(st.integers(1, 3)) if grouped else 1
    inside = draw(st.sampled_from([1, 5, 31, 32, 33, 64, 75]))
    outputs = draw(st.sampled_from([1, 7, 16, 33, 64, 70]))
    k = (draw(st.integers(1, kernel)), draw(st.integers(1, kernel)))
    s, d = draw(pair), draw(pair)
    p = (draw(st.integers(0, 3)), draw(st.integers(0, 3)))
    low = [max(1, di * (ki - 1) + 1 - 2 * pi) for di, ki, pi in zip(d, k, p, strict=True)]
    h, w = (draw(st.integers(lo, lo + 9)) for lo in low)
    n = draw(st.integers(1, 2))
    seed = draw(st.integers(0, 1 << 30))
    random = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(n, groups * inside, h, w, generator=random),
        "weight": torch.randn(groups * outputs, inside, *k, generator=random),
        "alpha": torch.rand(n, groups * inside, generator=random) + 0.5,
        "geometry": {"stride": s, "padding": p, "dilation": d},
        "groups": groups,
        "threads": draw(st.integers(1, 2)),
        "random": random,
    }


def sums_of(layer: dict[str, Any], x: Tensor | None = None) -> Tensor:
    """In float64, of the signs of the layer's input or of other values."""
    x = signs(layer["x"]) if x is None else x
    return F.conv2d(x, signs(layer["weight"]), groups=layer["groups"], **layer["geometry"])


def as_depthwise(layer: dict[str, Any], channels: int) -> dict[str, Any]:
    n, _, h, w = layer["x"].shape
    layer["x"] = torch.randn(n, channels, h, w, generator=layer["random"])
    layer["weight"] = torch.randn(channels, 1, *layer["weight"].shape[2:], generator=layer["random"])
    return layer | {"groups": channels, "depthwise": True}


@pytest.mark.parametrize("isa", ISAS)
@given(layer=layers())
@QUICK
def test_sums_are_exact(isa: Any, layer: dict[str, Any]):
    plane = native.pack(layer["x"], groups=layer["groups"], border=layer["geometry"]["padding"], isa=isa)
    weights = native.pack_weights(layer["weight"], groups=layer["groups"], isa=isa, **layer["geometry"])
    sums = native.conv_int(plane, weights, threads=layer["threads"])
    assert torch.equal(sums.double(), sums_of(layer))


@pytest.mark.parametrize("isa", ISAS)
@given(layer=layers(grouped=False, kernel=7), channels=st.sampled_from([1, 31, 32, 40, 130]))
@QUICK
def test_depthwise_sums_are_exact(isa: Any, layer: dict[str, Any], channels: int):
    layer = as_depthwise(layer, channels)
    plane = native.pack(layer["x"], border=layer["geometry"]["padding"], isa=isa)
    weights = native.pack_depthwise(layer["weight"], isa=isa, **layer["geometry"])
    assert torch.equal(native.conv_int(plane, weights).double(), sums_of(layer))


@pytest.mark.parametrize("taps", [(11, 11), (15, 17)])
@pytest.mark.parametrize("isa", ISAS)
def test_depthwise_of_many_taps(isa: Any, taps: tuple[int, int]):
    x, weight = torch.randn(1, 33, 19, 20), torch.randn(33, 1, *taps)
    plane = native.pack(x, border=8, isa=isa)
    y = native.conv_int(plane, native.pack_depthwise(weight, padding=[k // 2 for k in taps], isa=isa))
    assert torch.equal(
        y.double(), F.conv2d(signs(x), signs(weight), padding=[k // 2 for k in taps], groups=33)
    )


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("isa", ISAS)
@given(layer=layers())
@settings(parent=QUICK, max_examples=6)
def test_scaled_sums(isa: Any, exact: bool, layer: dict[str, Any]):
    alpha = layer["alpha"]
    plane = native.pack(layer["x"], groups=layer["groups"], border=layer["geometry"]["padding"], isa=isa)
    weights = native.pack_scaled(layer["weight"], groups=layer["groups"], isa=isa, **layer["geometry"])
    y = native.conv_scaled(plane, weights, alpha, exact=exact, threads=layer["threads"])
    wanted = sums_of(layer, signs(layer["x"]) * alpha[:, :, None, None].double())
    # Half a step per look-up at most, a step being (largest sum of a table's scales) / 1365.
    piece = 4 if isa == "avx2" else 5
    inside, taps = layer["weight"].shape[1], layer["weight"][0, 0].numel()
    bound = 1e-5 * inside * taps if exact else taps * -(-inside // piece) * 0.5 * 1.5 * piece / 1365 + 1e-3
    assert (y - wanted).abs().max() <= bound


@pytest.mark.parametrize("isa", ISAS)
def test_groups_round_scales_by_steps_of_their_own(isa: Any) -> None:
    alpha = torch.rand(1, 80) + 0.5
    alpha[:, :40] *= 1e-4  # with one step all of these would be 0
    plane = native.pack(torch.randn(1, 80, 12, 12), groups=2, isa=isa)
    weights = native.pack_scaled(torch.randn(64, 40, 1, 1), groups=2, isa=isa)
    exact = native.conv_scaled(plane, weights, alpha, exact=True)
    off = native.conv_scaled(plane, weights, alpha) - exact
    for group in (slice(0, 32), slice(32, 64)):
        error = off[:, group].square().mean().sqrt() / exact[:, group].square().mean().sqrt()
        assert 0 < float(error) < 40**0.5 / 2730


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("isa", ISAS)
def test_scaled_kernels_without_taps_give_zeros(isa: Any, exact: bool) -> None:
    plane = native.pack(torch.randn(1, 64, 6, 6), isa=isa)
    weights = native.pack_scaled(torch.empty(32, 64, 0, 0), isa=isa)
    found = native.conv_scaled(plane, weights, torch.ones(1, 64), exact=exact, out_size=(6, 6))
    assert torch.equal(found, torch.zeros(1, 32, 6, 6))


@pytest.mark.parametrize(
    ("channels", "high", "geometry"),
    [
        (256, 301, {"padding": (1, 1)}),
        (250, 301, {"padding": (2, 0), "stride": (2, 1), "dilation": (2, 1)}),
        (250, 302, {"stride": (5, 2)}),  # rows that no tap reads
        (2500, 12, {"padding": (1, 1)}),  # no more than one line in a band
    ],
)
@pytest.mark.parametrize("isa", ISAS)
def test_scaled_sums_of_high_maps(isa: Any, channels: int, high: int, geometry: dict[str, Any]):
    """Indices are made for a band of output lines at a time."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(1, channels, high, 40 if channels < 1000 else 150, generator=random)
    weight = torch.randn(3, channels, 3, 3, generator=random)
    alpha = torch.rand(1, channels, generator=random)
    plane = native.pack(x, border=geometry.get("padding", 0), isa=isa)
    weights = native.pack_scaled(weight, isa=isa, **geometry)
    wanted = F.conv2d(signs(x) * alpha[:, :, None, None].double(), signs(weight), **geometry)
    for threads in (1, 2):
        y = native.conv_scaled(plane, weights, alpha, exact=True, threads=threads)
        assert (y - wanted).abs().max() <= 1e-5 * channels * 9


@pytest.mark.parametrize("isa", ISAS)
@given(layer=layers(grouped=False), channels=st.sampled_from([33, 64, 70, 250]), groups=st.integers(2, 8))
@QUICK
def test_sums_of_groups_with_scales(isa: Any, layer: dict[str, Any], channels: int, groups: int):
    random, (n, _, h, w) = layer["random"], layer["x"].shape
    layer["x"] = torch.randn(n, channels, h, w, generator=random)
    layer["weight"] = torch.randn(
        layer["weight"].shape[0], channels, *layer["weight"].shape[2:], generator=random
    )
    bounds = group_bounds(channels, groups)
    scale = torch.randn(n, len(bounds) - 1, generator=random).exp()
    plane = native.pack(layer["x"], border=layer["geometry"]["padding"], isa=isa)
    weights = native.pack_weights(layer["weight"], scale_groups=len(bounds) - 1, isa=isa, **layer["geometry"])
    y = native.conv(plane, weights, native.Epilogue(sample_scale=scale), threads=layer["threads"])
    sizes = torch.tensor([end - start for start, end in itertools.pairwise(bounds)])
    alpha = scale.double().repeat_interleave(sizes, 1)[:, :, None, None]
    wanted = sums_of(layer, signs(layer["x"]) * alpha)
    assert (y - wanted).abs().max() <= 1e-5 * float(alpha.max()) * layer["weight"][0].numel()


def test_scale_groups_that_do_not_fit_are_refused():
    weight = torch.randn(4, 64, 1, 1)
    for wrong in ({"scale_groups": 3}, {"scale_groups": 0}, {"scale_groups": 2, "groups": 2}):
        with pytest.raises(NativeError, match="scale_groups="):
            native.pack_weights(weight, **wrong)
    plane, weights = native.pack(torch.randn(2, 64, 3, 3)), native.pack_weights(weight, scale_groups=2)
    for epilogue in (None, native.Epilogue(sample_scale=torch.ones(2)), native.Epilogue(midpoint=1.0)):
        with pytest.raises(NativeError, match="sample_scale"):
            native.conv(plane, weights, epilogue)
    with pytest.raises(NativeError, match="scale groups"):
        native.conv_int(plane, weights)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("outputs", [16, 17, 32, 48, 64, 70, 130])
def test_tiles_of_all_sizes(isa: Any, outputs: int):
    """Every number of positions and of blocks of outputs that stay in registers together."""
    random = torch.Generator().manual_seed(outputs)
    weight = torch.randn(outputs, 35, 1, 2, generator=random)
    alpha = torch.rand(1, 35, generator=random) + 0.5
    packed, scaled = native.pack_weights(weight, isa=isa), native.pack_scaled(weight, isa=isa)
    for width in range(1, 15):
        x = torch.randn(1, 35, 2, width + 1, generator=random)
        plane = native.pack(x, isa=isa)
        sums = native.conv_int(plane, packed).double()
        assert torch.equal(sums, F.conv2d(signs(x), signs(weight))), width
        wanted = F.conv2d(signs(x) * alpha[:, :, None, None].double(), signs(weight))
        for exact, bound in ((True, 1e-4), (False, 0.04)):  # half of 6 / 1365 in each of 18 look-ups
            y = native.conv_scaled(plane, scaled, alpha, exact=exact)
            assert (y - wanted).abs().max() <= bound, (width, exact)


def test_error_of_scaled_sums_is_small():
    x, weight, alpha = (
        torch.randn(1, 192, 20, 20),
        torch.randn(64, 192, 3, 3),
        torch.exp(torch.randn(1, 192) / 4),
    )
    plane = native.pack(x, border=1)
    y = native.conv_scaled(plane, native.pack_scaled(weight, padding=1), alpha)
    wanted = F.conv2d(signs(x) * alpha[:, :, None, None].double(), signs(weight), padding=1)
    assert ((y - wanted).abs() / wanted.abs()).median() <= 3e-3


def full_epilogue(layer: dict[str, Any], shape: torch.Size, bypass_channels: int) -> native.Epilogue:
    def some(*size: int) -> Tensor:
        return torch.randn(*size, generator=layer["random"])

    n, c = shape[:2]
    arrays = {name: some(c) for name in ("before", "negative", "positive", "after")}
    return native.Epilogue(
        mul=some(c),
        add=some(c),
        sample_scale=some(n),
        first=native.Activation(kind="piecewise", **arrays),
        second=native.Activation(kind="clamp", low=-3.0, high=20.0),
        bypass=some(n, bypass_channels, *shape[2:]),
        residual=some(*shape),
        sums=torch.empty(n, c),
    )


@pytest.mark.parametrize("isa", ISAS)
@given(layer=layers(), bypass=st.sampled_from([1, 3, 16, 33, 64, 100]))
@QUICK
def test_epilogue(isa: Any, layer: dict[str, Any], bypass: int):
    plane = native.pack(layer["x"], groups=layer["groups"], border=layer["geometry"]["padding"], isa=isa)
    weights = native.pack_weights(layer["weight"], groups=layer["groups"], isa=isa, **layer["geometry"])
    sums = sums_of(layer)
    e = full_epilogue(layer, sums.shape, bypass)
    y = native.conv(plane, weights, e, threads=layer["threads"])
    wanted = finish(sums, e)
    assert torch.allclose(y.double(), wanted, rtol=1e-5, atol=1e-4)
    assert e.sums is not None
    assert torch.allclose(e.sums.double(), wanted.sum((2, 3)), rtol=1e-4, atol=1e-2)


def check_values(isa: Any, layer: dict[str, Any], midpoint: float, offset: bool, bypass: int) -> None:
    """Weights +-mul + offset and activations +-1 + midpoint, against their convolution in double."""
    depthwise = layer.get("depthwise", False)
    border, geometry = layer["geometry"]["padding"], layer["geometry"]
    plane = native.pack(layer["x"], groups=1 if depthwise else layer["groups"], border=border, isa=isa)
    if depthwise:
        weights = native.pack_depthwise(layer["weight"], isa=isa, **geometry)
    else:
        weights = native.pack_weights(layer["weight"], groups=layer["groups"], isa=isa, **geometry)
    e = full_epilogue(layer, sums_of(layer).shape, bypass)
    assert e.mul is not None
    assert e.sums is not None
    middle = torch.randn(weights.out_channels, generator=layer["random"])
    wanted = F.conv2d(
        signs(layer["x"]) + midpoint,
        signs(layer["weight"]) * e.mul.double()[:, None, None, None]
        + (middle.double()[:, None, None, None] if offset else 0),
        groups=layer["groups"],
        **geometry,
    )
    given = replace(e, offset=middle if offset else None, midpoint=midpoint)
    sums = native.conv(plane, weights, native.Epilogue(mul=e.mul, offset=given.offset, midpoint=midpoint))
    largest = layer["weight"][0].numel() * (1 + abs(midpoint)) * 4
    assert (sums - wanted).abs().max() <= 1e-6 * largest
    y = native.conv(plane, weights, given, threads=layer["threads"])
    wanted = finish(wanted, replace(e, mul=torch.ones_like(e.mul)))
    assert torch.allclose(y.double(), wanted, rtol=1e-5, atol=1e-5 * largest)
    assert torch.allclose(e.sums.double(), wanted.sum((2, 3)), rtol=1e-4, atol=1e-2)


midpoints = st.sampled_from([0.0, 0.3, 1.0, -1.0, -2.7])


@pytest.mark.parametrize("isa", ISAS)
@given(layer=layers(), midpoint=midpoints, offset=st.booleans(), bypass=st.sampled_from([1, 33, 64]))
@QUICK
def test_other_values_than_ones(isa: Any, layer: dict[str, Any], midpoint: float, offset: bool, bypass: int):
    check_values(isa, layer, midpoint, offset, bypass)


@pytest.mark.parametrize("isa", ISAS)
@given(
    layer=layers(grouped=False, kernel=7),
    channels=st.sampled_from([2, 31, 32, 40, 130]),
    midpoint=midpoints,
    offset=st.booleans(),
)
@QUICK
def test_other_values_of_depthwise(
    isa: Any, layer: dict[str, Any], channels: int, midpoint: float, offset: bool
):
    check_values(isa, as_depthwise(layer, channels), midpoint, offset, channels)


@pytest.mark.parametrize("isa", ISAS)
@given(layer=layers(), channels=st.sampled_from([0, 2, 40]), midpoint=st.sampled_from([1.0, -1.0]))
@QUICK
def test_activations_of_0_and_2_are_summed_exactly(
    isa: Any, layer: dict[str, Any], channels: int, midpoint: float
):
    layer = as_depthwise(layer, channels) if channels else layer
    border, geometry = layer["geometry"]["padding"], layer["geometry"]
    plane = native.pack(layer["x"], groups=1 if channels else layer["groups"], border=border, isa=isa)
    if channels:
        weights = native.pack_depthwise(layer["weight"], isa=isa, **geometry)
    else:
        weights = native.pack_weights(layer["weight"], groups=layer["groups"], isa=isa, **geometry)
    mul = torch.randn(weights.out_channels, generator=layer["random"])
    add = torch.randn(weights.out_channels, generator=layer["random"])
    whole = F.conv2d(signs(layer["x"]) + midpoint, signs(layer["weight"]), groups=layer["groups"], **geometry)
    wanted = whole.float() * mul[:, None, None] + add[:, None, None]  # rounded there, and nowhere before
    epilogue = native.Epilogue(mul=mul, add=add, midpoint=midpoint)
    assert torch.equal(native.conv(plane, weights, epilogue, threads=layer["threads"]), wanted)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("last", [False, True])
def test_an_infinite_factor_makes_the_bit_of_numbers_above_zero(isa: Any, last: bool):
    x = torch.randn(2, 40, 5, 37, generator=torch.Generator().manual_seed(0)).relu_()
    x.view(-1)[:40] = torch.tensor([0.0, -0.0, 1e-45, 1e-38, 3e38, torch.inf, torch.nan, -1.0]).repeat(5)
    given = x.contiguous(memory_format=torch.channels_last) if last else x
    plane = native.pack(given, mul=torch.full((40,), torch.inf), isa=isa)
    assert torch.equal(native.unpack(plane), torch.where(x > 0, 1.0, -1.0))


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("isa", ISAS)
def test_other_values_in_long_lines(isa: Any, kernel: int):
    random = torch.Generator().manual_seed(kernel)
    layer = {
        "x": torch.randn(2, 40, 7, 250, generator=random),
        "weight": torch.randn(70, 20, kernel, kernel, generator=random),
        "geometry": {"padding": (kernel // 2, kernel // 2)},
        "groups": 2,
        "threads": 2,
        "random": random,
    }
    check_values(isa, layer, 0.3, True, 16)


@pytest.mark.slow
@pytest.mark.parametrize("isa", ISAS)
@given(
    layer=layers(kernel=5),
    channels=st.sampled_from([0, 2, 33, 64, 150]),
    midpoint=midpoints,
    offset=st.booleans(),
)
@settings(parent=QUICK, max_examples=200)
def test_other_values_of_many(isa: Any, layer: dict[str, Any], channels: int, midpoint: float, offset: bool):
    check_values(isa, as_depthwise(layer, channels) if channels else layer, midpoint, offset, 16)


@pytest.mark.parametrize("isa", ISAS)
@given(
    layer=layers(),
    outputs=st.sampled_from([1, 11, 16, 21, 40, 81, 100, 151]),
    bias=st.booleans(),
    scaled=st.booleans(),
)
@QUICK
def test_tail(isa: Any, layer: dict[str, Any], outputs: int, bias: bool, scaled: bool):
    groups, geometry = layer["groups"], layer["geometry"]
    plane = native.pack(layer["x"], groups=groups, border=geometry["padding"], isa=isa)
    alpha, pack_ = layer["alpha"], native.pack_scaled if scaled else native.pack_weights
    weights = pack_(layer["weight"], groups=groups, isa=isa, **geometry)
    x = signs(layer["x"]) * alpha[:, :, None, None].double() if scaled else None
    e = full_epilogue(layer, sums_of(layer).shape, 33)
    tail = native.Tail(
        weight=torch.randn(outputs, weights.out_channels, generator=layer["random"]),
        bias=torch.randn(outputs, generator=layer["random"]) if bias else None,
    )
    with_tail = dataclasses.replace(e, tail=tail)
    if scaled:
        y = native.conv_scaled(plane, weights, alpha, with_tail, exact=True, threads=layer["threads"])
    else:
        y = native.conv(plane, weights, with_tail, threads=layer["threads"])
    values = finish(sums_of(layer, x), e)
    wanted = F.conv2d(
        values, tail.weight.double()[:, :, None, None], None if tail.bias is None else tail.bias.double()
    )
    assert torch.allclose(y.double(), wanted, rtol=1e-5, atol=2e-3)
    assert e.sums is not None
    assert torch.allclose(e.sums.double(), values.sum((2, 3)), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("kind", ["conv", "depthwise", "scaled"])
@pytest.mark.parametrize("isa", ISAS)
def test_results_that_no_cache_holds(isa: Any, kind: str):
    """From 16 MB on they are written past the caches: the bits of a map are those of its parts."""
    random = torch.Generator().manual_seed(0)
    outputs, high, wide = 64, 257, 300  # 19.7 MB
    inputs = 64 if kind == "depthwise" else 20
    x = torch.randn(1, inputs, high, wide, generator=random).contiguous(memory_format=torch.channels_last)
    alpha = torch.rand(1, inputs, generator=random)
    weight = torch.randn(outputs, 1 if kind == "depthwise" else inputs, 1, 3, generator=random)
    pack_ = {"conv": native.pack_weights, "depthwise": native.pack_depthwise, "scaled": native.pack_scaled}
    weights = pack_[kind](weight, padding=(0, 1), isa=isa)
    bypass = torch.randn(1, outputs, high, wide, generator=random)
    mul, add = torch.rand(2, outputs, generator=random)

    def run(rows: slice) -> tuple[Tensor, Tensor]:
        sums = torch.empty(1, outputs)
        e = native.Epilogue(mul=mul, add=add, bypass=bypass[:, :, rows], sums=sums)
        plane = native.pack(x[:, :, rows], border=(0, 1), isa=isa)
        if kind == "scaled":
            return native.conv_scaled(plane, weights, alpha, e, exact=True, threads=2), sums
        return native.conv(plane, weights, e, threads=2), sums

    whole, sums = run(slice(None))
    parts = [run(rows) for rows in (slice(0, 100), slice(100, high))]
    assert whole.nbytes >= 1 << 24 > max(part.nbytes for part, _ in parts)
    assert torch.equal(whole, torch.cat([part for part, _ in parts], 2))
    torch.testing.assert_close(sums, parts[0][1] + parts[1][1], rtol=1e-4, atol=1.0)


@pytest.mark.parametrize("isa", ISAS)
@given(
    layer=layers(),
    small=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    align=st.booleans(),
    bypass=st.sampled_from([1, 16, 33]),
    outputs=st.sampled_from([0, 21]),
)
@QUICK
def test_interpolated_maps(
    isa: Any, layer: dict[str, Any], small: Any, align: bool, bypass: int, outputs: int
):
    n, c, *size = layer["x"].shape
    groups, geometry, random = layer["groups"], layer["geometry"], layer["random"]
    x = torch.randn(n, c, *small, generator=random)
    resize = native.Resize(size=tuple(size), align_corners=align)
    add, sums = torch.randn(n, c, generator=random), torch.empty(n, c)
    plane = native.pack(
        x, add=add, groups=groups, border=geometry["padding"], abs_sums=sums, resize=resize, isa=isa
    )
    large = resize(x) + add[:, :, None, None]
    far = large.abs() > 1e-5
    assert torch.equal((native.unpack(plane) > 0)[far], (large >= 0)[far])
    assert torch.allclose(sums.double(), large.abs().double().sum((2, 3)), rtol=1e-4, atol=1e-4)
    # the same of a bypass
    weights = native.pack_weights(layer["weight"], groups=groups, isa=isa, **geometry)
    e = full_epilogue(layer, sums_of(layer).shape, bypass)
    way = torch.randn(n, bypass, *small, generator=random)
    to_output = native.Resize(size=tuple(sums_of(layer).shape[2:]), align_corners=align)
    tail = native.Tail(weight=torch.randn(outputs, weights.out_channels)) if outputs else None
    e = dataclasses.replace(e, bypass=to_output(way), tail=tail)
    wanted = native.conv(plane, weights, e, threads=layer["threads"])
    e = dataclasses.replace(e, bypass=way, resize=to_output)
    assert torch.allclose(
        native.conv(plane, weights, e, threads=layer["threads"]), wanted, rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("isa", ISAS)
@given(
    layer=layers(),
    channels=st.sampled_from([2, 40, 70]),
    small=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    align=st.booleans(),
    bypass=st.sampled_from([1, 16, 33]),
)
@QUICK
def test_interpolated_bypass_of_a_depthwise_convolution(
    isa: Any, layer: dict[str, Any], channels: int, small: Any, align: bool, bypass: int
):
    layer = as_depthwise(layer, channels)
    plane = native.pack(layer["x"], border=layer["geometry"]["padding"], isa=isa)
    weights = native.pack_depthwise(layer["weight"], isa=isa, **layer["geometry"])
    shape = sums_of(layer).shape
    e = full_epilogue(layer, shape, bypass)
    way = torch.randn(shape[0], bypass, *small, generator=layer["random"])
    resize = native.Resize(size=tuple(shape[2:]), align_corners=align)
    wanted = native.conv(plane, weights, dataclasses.replace(e, bypass=resize(way)), threads=layer["threads"])
    e = dataclasses.replace(e, bypass=way, resize=resize)
    assert torch.allclose(
        native.conv(plane, weights, e, threads=layer["threads"]), wanted, rtol=1e-4, atol=1e-3
    )


def test_no_tail_behind_a_depthwise_convolution():
    plane = native.pack(torch.randn(1, 32, 5, 5), border=1)
    weights = native.pack_depthwise(torch.randn(32, 1, 3, 3), padding=1)
    with pytest.raises(NativeError):
        native.conv(plane, weights, native.Epilogue(tail=native.Tail(weight=torch.randn(4, 32))))


@pytest.mark.parametrize(("ways", "outputs"), [(100, 33), (300, 7), (17, 1), (33, 64), (96, 160), (31, 31)])
def test_all_paths_give_the_same_bypass(ways: int, outputs: int) -> None:
    """Of means, too, whose last one has more terms: its sum has the same chains on all processors."""
    x, weight = torch.randn(2, 40, 6, 7), torch.randn(outputs, 40, 1, 1)
    bypass = torch.randn(2, ways, 6, 7)
    results = []
    for isa in ISAS:
        plane, weights = native.pack(x, isa=isa), native.pack_weights(weight, isa=isa)
        for threads in (1, 2):
            sums = torch.empty(2, outputs)
            made = native.conv(plane, weights, native.Epilogue(bypass=bypass, sums=sums), threads=threads)
            results.append((made, sums))
    assert all(torch.equal(results[0][0], made) and torch.equal(results[0][1], s) for made, s in results[1:])


@given(layer=layers(), channels=st.sampled_from([0, 2, 40]))
@settings(parent=QUICK, max_examples=12)
def test_all_paths_and_the_reference_give_the_same_floats(layer: dict[str, Any], channels: int):
    layer = as_depthwise(layer, channels) if channels else layer
    shape = sums_of(layer).shape
    e = full_epilogue(layer, shape, shape[1])
    check_same_floats(layer, e)
    check_same_floats(layer, replace(e, offset=e.add, midpoint=0.7))
    check_same_floats(layer, replace(e, midpoint=-1.0))


def check_same_floats(layer: dict[str, Any], e: native.Epilogue) -> None:
    depthwise = layer.get("depthwise", False)
    border, geometry = layer["geometry"]["padding"], layer["geometry"]
    results = []
    for isa in ISAS:
        plane = native.pack(layer["x"], groups=1 if depthwise else layer["groups"], border=border, isa=isa)
        if depthwise:
            weights = native.pack_depthwise(layer["weight"], isa=isa, **geometry)
        else:
            weights = native.pack_weights(layer["weight"], groups=layer["groups"], isa=isa, **geometry)
        results += [native.conv(plane, weights, e, threads=t) for t in (1, 2)]
        results.append(reference.conv(plane, layer["weight"], weights, e))
    assert all(torch.equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("layout", ["last", "first", "strided"])
@pytest.mark.parametrize("isa", ISAS)
def test_pack(isa: Any, layout: str):
    x = torch.randn(2, 70, 5, 19)
    x[0, :6, 0, 0] = torch.tensor([0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e-45])
    if layout == "last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == "strided":
        x = (
            torch.randn(2, 10, 24, 99)
            .permute(0, 3, 1, 2)[:, 10:80, 1:9:2, 2:24:3]
            .copy_(torch.randn(2, 70, 4, 8))
        )
    mul, add = torch.randn(70), torch.randn(2, 70)
    for m, a in ((None, None), (None, add[0]), (mul, add), (mul, None)):
        z = x if m is None else x * m[:, None, None]
        z = z if a is None else z + (a[..., None, None])
        sums = torch.empty(2, 70)
        plane = native.pack(x, mul=m, add=a, border=(1, 2), groups=2, isa=isa, abs_sums=sums)
        assert torch.equal(native.unpack(plane).double(), signs(z))
        finite = z.abs().sum((2, 3), dtype=torch.float64).float()
        assert torch.allclose(sums, finite, rtol=1e-5, equal_nan=True)
        assert torch.equal(plane.words, reference.pack(x, m, a, 2, (1, 2)))


@pytest.mark.parametrize(("groups", "inside"), [(300, 5), (130, 8), (40, 24), (3, 700), (2, 1100), (5, 33)])
@pytest.mark.parametrize("isa", ISAS)
def test_pack_of_many_groups(isa: Any, groups: int, inside: int):
    channels = groups * inside
    x = torch.randn(2, channels, 3, 5).contiguous(memory_format=torch.channels_last)
    mul, add, sums = torch.randn(channels), torch.randn(2, channels), torch.empty(2, channels)
    plane = native.pack(x, mul=mul, add=add, groups=groups, border=1, abs_sums=sums, threads=1, isa=isa)
    expected = x * mul[:, None, None] + add[..., None, None]
    assert torch.equal(native.unpack(plane), signs(expected).float())
    torch.testing.assert_close(sums, expected.abs().sum((2, 3)))
    words = plane.words[:-SLACK].view(2, 5, 7, groups, -1)[..., -1].long()
    used = inside - 32 * (inside // 32 - (inside % 32 == 0))
    assert not (words & 0xFFFFFFFF >> used << used).any()  # zeros behind a group


@pytest.mark.parametrize("isa", ISAS)
def test_channel_sums(isa: Any):
    x = torch.randn(2, 83, 9, 150).contiguous(memory_format=torch.channels_last) + 3
    assert torch.allclose(native.channel_sums(x, isa=isa).double(), x.double().sum((2, 3)), rtol=1e-6)


@pytest.mark.parametrize("isa", ISAS)
@given(
    kernel=pair,
    stride=pair,
    dilation=pair,
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    groups=st.integers(1, 2),
)
@QUICK
def test_transposed(isa: Any, kernel: Any, stride: Any, dilation: Any, padding: Any, groups: int):
    x, weight = torch.randn(2, 6, 5, 4), torch.randn(6, 5, *kernel)
    weights = native.pack_transposed(
        weight, stride=stride, padding=padding, dilation=dilation, groups=groups, isa=isa
    )
    size = weights.out_size(5, 4)
    if min(size) < 1:
        return
    plane = native.pack(x, border=weights.border(5, 4), groups=groups, isa=isa)
    wanted = F.conv_transpose2d(
        signs(x), signs(weight), stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    sums = torch.empty(2, 5 * groups)
    y = native.conv_transposed(plane, weights, native.Epilogue(sums=sums))
    assert torch.equal(y.double(), wanted)
    assert torch.allclose(sums.double(), wanted.sum((2, 3)))
    mul, offset = torch.randn(5 * groups), torch.randn(5 * groups)
    y = native.conv_transposed(plane, weights, native.Epilogue(mul=mul, offset=offset, midpoint=0.3))
    filters = (part.view(groups, 1, 5, 1, 1).double() for part in (mul, offset))
    scale, middle = (part.expand(-1, 6 // groups, -1, -1, -1).flatten(0, 1) for part in filters)
    wanted = F.conv_transpose2d(
        signs(x) + 0.3,
        signs(weight) * scale + middle,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )
    assert torch.allclose(y.double(), wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("isa", ISAS)
def test_linear_layer_is_a_pointwise_convolution(isa: Any):
    x, weight = torch.randn(3, 50, 40), torch.randn(24, 40)
    plane = native.pack(x.movedim(-1, 1).unsqueeze(2), isa=isa)
    y = native.conv(plane, native.pack_weights(weight[:, :, None, None], isa=isa))
    assert torch.equal(y.squeeze(2).movedim(1, -1).double(), F.linear(signs(x), signs(weight)))


@pytest.mark.parametrize("kind", ["conv", "depthwise", "scaled"])
@pytest.mark.parametrize("exact", [False, True])
def test_prepared_calls_give_the_same_bits(kind: str, exact: bool):
    random = torch.Generator().manual_seed(0)
    x = torch.randn(2, 40, 7, 6, generator=random).contiguous(memory_format=torch.channels_last)
    inside = 1 if kind == "depthwise" else 40
    pack_ = {"conv": native.pack_weights, "depthwise": native.pack_depthwise, "scaled": native.pack_scaled}
    weights = pack_[kind](torch.randn(40, inside, 3, 3, generator=random), padding=1)
    alpha, mul, add = torch.rand(2, 40, generator=random), *torch.randn(2, 40, generator=random)
    plane, sums = native.pack(x, border=1, add=add), (torch.empty(2, 40), torch.empty(2, 40))
    e = native.Epilogue(mul=mul, add=add, bypass=x, sums=sums[0])
    pack = PreparedPack(x.shape, groups=1, border=(1, 1), add=add)
    conv = PreparedConv(weights, pack.plane, native.Epilogue(mul=mul, add=add), (7, 6), exact=exact)
    words, scales = pack(x)
    assert scales is None
    assert torch.equal(words, plane.words)
    if kind == "scaled":
        wanted = native.conv_scaled(plane, weights, alpha, e, exact=exact)
        assert torch.equal(conv(words, alpha=alpha, bypass=x, sums=sums[1]), wanted)
    else:
        wanted = native.conv(plane, weights, e)
        assert torch.equal(conv(words, bypass=x, sums=sums[1]), wanted)
        layer, out = layer_of(pack, conv, x), blank(2, 40, 7, 6)
        layer.epilogue.bypass, layer.epilogue.bypass_channels = map_of(x), 40
        must("layer", layer_step(layer, x, out, bypass=x), "auto")
        assert torch.equal(out, wanted)
    assert torch.equal(*sums)


def test_set_isa_changes_what_auto_means():
    try:
        native.set_isa("portable")
        assert native.features().isa == "portable"
        assert native.pack_weights(torch.randn(4, 4, 1, 1)).isa == "portable"
    finally:
        native.set_isa("auto")


def test_wrong_arguments_say_what_was_expected():
    plane = native.pack(torch.randn(1, 8, 4, 4))
    weights = native.pack_weights(torch.randn(4, 8, 3, 3), padding=1)
    with pytest.raises(NativeError, match="border is \\(0, 0\\)"):
        native.conv(plane, weights)
    with pytest.raises(NativeError, match="float64"):
        native.pack(torch.randn(1, 8, 4, 4).double())
    with pytest.raises(NativeError, match="8 channels in 1 groups"):
        native.conv(plane, native.pack_weights(torch.randn(4, 8, 1, 1), groups=2))
    with pytest.raises(NativeError, match="avx2"):
        native.pack(torch.randn(1, 8, 4, 4), isa="avx3")  # pyright: ignore[reportArgumentType]
    for call in (native.set_isa, instruction_set.resolve):
        with pytest.raises(NativeError, match=r"instruction set 'torch'.*portable"):
            call("torch")  # pyright: ignore[reportArgumentType]
    scaled = native.pack_scaled(torch.randn(4, 8, 1, 1))
    with pytest.raises(NativeError, match="an offset or a midpoint"):
        native.conv_scaled(plane, scaled, torch.ones(1, 8), native.Epilogue(midpoint=0.5))


def test_without_the_library_functions_say_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(library, "_load", lambda: (None, None, "not built"))
    x, plane = torch.randn(1, 8, 4, 4), torch.zeros(16 * 1 + 16, dtype=torch.int32)
    packed = native.BitPlane(words=plane, images=1, height=4, width=4, channels=8)
    weights = native.PackedWeights(
        kind="conv", words=plane, counts=plane, in_channels=8, out_channels=4, kernel=(1, 1), isa="portable"
    )
    calls = [
        lambda: native.pack(x),
        lambda: native.channel_sums(x),
        lambda: native.pack_weights(torch.randn(4, 8, 1, 1)),
        lambda: native.conv(packed, weights),
        lambda: native.conv_int(packed, weights),
        lambda: native.conv_stem(x, torch.randn(4, 8, 3, 3)),
        lambda: native.set_isa("portable"),
        instruction_set.resolve,
    ]
    for call in calls:
        with pytest.raises(NativeError, match="kernels are missing: not built"):
            call()
    found = native.features()
    assert not native.available()
    assert (found.available, found.isas, found.isa) == (False, (), None)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("cmake") or not shutil.which("c++"), reason="no cmake or no compiler")
def test_kernels_under_sanitizers(tmp_path: Path):
    root = Path(__file__).parents[2]
    subprocess.run(["cmake", "-S", root, "-B", tmp_path, "-DBINARIZE_SANITIZE=ON"], check=True)
    subprocess.run(["cmake", "--build", tmp_path, "-j2"], check=True)
    done = subprocess.run([tmp_path / "native_driver", "60"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout, file=sys.stderr)  # noqa: T201
