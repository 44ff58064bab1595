"""Packed layers on the kernels: what they refuse, what they notice, where they leave the work to torch."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from comparing import relative_difference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import binarize
from binarize import native
from binarize.errors import ConfigError, TrainingError
from binarize.layers import DAB
from binarize.native.library import available, features
from binarize.runtime import PackedLayer, RuntimeOptions, lower
from binarize.runtime.program.dispatch import Programs
from binarize.runtime.spec import PackedSpec, QuantizerSpec

pytestmark = pytest.mark.skipif(not available(), reason="the native kernels are not built")


def packed(layer: nn.Module, method: str = "bidense", **options: Any) -> PackedLayer:
    found = lower(binarize.binary_layer(layer, method, **options).eval())
    assert isinstance(found, PackedLayer)
    found.options = RuntimeOptions(exact_scales=True)
    return found


@pytest.mark.parametrize("method", ["bnn", "reactnet", "adabin", "bidense"])
@pytest.mark.parametrize(
    ("channels", "shape"), [(70, (2, 70, 9, 7)), (33, (1, 33, 1, 12)), (1, (3, 1, 5, 1))]
)
def test_layouts(method: str, channels: int, shape: tuple[int, ...]) -> None:
    layer = packed(nn.Conv2d(channels, 45, 3, padding=1), method)
    x = torch.randn(shape)
    wide = torch.randn(shape[0], 2 * shape[1], *shape[2:])
    inputs = [
        x,
        x.contiguous(memory_format=torch.channels_last),
        wide[:, ::2],
        x.transpose(2, 3).contiguous().transpose(2, 3),
    ]
    with torch.inference_mode():
        for given in inputs:
            before = given.clone()
            torch.testing.assert_close(layer(given), layer.reference(given), rtol=1e-4, atol=1e-4)
            assert given.equal(before)


@pytest.mark.parametrize("shape", [(2, 32, 8, 8), (2, 65, 8, 8), (64, 8, 8), (8,)])
def test_other_inputs_are_refused(shape: tuple[int, ...]) -> None:
    layer = packed(nn.Conv2d(64, 64, 3, padding=1), "bnn")
    with pytest.raises(ConfigError, match="64 input channels got an input of shape"):
        layer(torch.randn(shape))
    with pytest.raises(ConfigError, match="64 input channels"):
        packed(nn.Linear(64, 8), "reactnet")(torch.randn(3, 65))


def test_the_default_dtype_does_not_matter() -> None:
    layer = packed(nn.Conv2d(40, 24, 3, padding=1))
    x = torch.randn(1, 40, 6, 6)
    expected = layer(x)
    for dtype in (torch.float64, torch.bfloat16):
        torch.set_default_dtype(dtype)
        try:
            assert copy.deepcopy(layer)(x).equal(expected)
        finally:
            torch.set_default_dtype(torch.float32)


@pytest.mark.skipif(features().isa not in ("avx512", "amx"), reason="tables of scales are for AVX-512")
def test_options_and_threads_are_heeded_after_the_first_call() -> None:
    torch.manual_seed(0)
    layer = packed(nn.Conv2d(96, 64, 3, padding=1))
    layer.vector("a").normal_()
    x = torch.randn(1, 96, 12, 12)
    exact = layer(x)
    layer.options = RuntimeOptions(exact_scales=False)
    near = layer(x)
    assert not near.equal(exact)
    assert ((near - exact).abs() / exact.abs().max()).median() < 3e-3
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert layer(x).equal(near)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.skipif(features().isa not in ("avx512", "amx"), reason="tables of scales are for AVX-512")
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(96, 150, 3, padding=1),
        nn.Conv2d(77, 33, 3, stride=2, dilation=2, padding=2),
        nn.Conv2d(60, 20, 1, groups=5),
        nn.Conv1d(33, 130, 5, padding="same"),
    ],
)
def test_exact_scales_per_channel(layer: nn.Module) -> None:
    torch.manual_seed(0)
    found = packed(layer)
    found.vector("a").normal_()
    assert found.why_by_torch() is None
    size = (50,) if isinstance(layer, nn.Conv1d) else (13, 17)
    x = torch.randn(2, found.spec.in_channels, *size)
    got, wanted = found(x), found.reference(x)
    assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize(
    "method",
    ["bnn", "reactnet", "adabin", "bidense", "bidense per layer", "bidense per group", "bidense rounded"],
)
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(40, 70, 3, padding=1), (2, 40, 9, 7)),
        (nn.Conv2d(64, 64, 3, padding=1), (1, 64, 8, 8)),
        (nn.Conv2d(48, 96, 3, stride=2, padding=1), (2, 48, 10, 12)),  # the bypass is a mean of 2x2 positions
        (nn.Conv2d(48, 33, 1, stride=2), (1, 48, 8, 6)),
        (nn.Conv2d(32, 32, 5, padding=2, groups=32), (1, 32, 9, 9)),
        (nn.Conv2d(32, 32, 3, padding=1, groups=32), (2, 32, 9, 9)),
        (nn.Conv2d(24, 24, 3, stride=2, padding=1, groups=24), (1, 24, 8, 8)),
        (nn.Conv2d(70, 70, 3, padding=1, groups=70), (1, 70, 6, 6)),
        (nn.Conv2d(32, 64, 3, padding=1, groups=4), (2, 32, 5, 5)),
        (nn.Conv1d(33, 40, 5, padding=2), (2, 33, 20)),
        (nn.Linear(40, 65), (3, 7, 40)),
        (nn.Linear(40, 40), (5, 40)),
    ],
)
def test_a_step_gives_the_bits_of_the_layer(method: str, layer: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    name, _, rest = method.partition(" ")
    options = {"granularity": rest.removeprefix("per ")} if rest.startswith("per ") else {}
    found = packed(copy.deepcopy(layer), name, **options)
    if rest == "rounded":
        found.options = RuntimeOptions()
    reason = found.why_by_torch()
    if reason is not None:
        pytest.skip(reason)
    found.vectors += 0.1 * torch.rand(found.vectors.shape)
    net: Any = nn.Sequential(found).eval()
    alone = Programs(net)
    x = torch.randn(shape)
    x = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
    with torch.inference_mode():
        expected = found(x)
        for _ in range(3):
            got = net(x)
    assert alone.programs()
    if found.norm is None:
        assert got.equal(expected)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_inputs_of_any_kind_after_the_first_one() -> None:
    torch.manual_seed(0)
    layer = packed(nn.Conv2d(32, 32, 3, padding=1), "reactnet")
    x = torch.randn(2, 32, 6, 6).contiguous(memory_format=torch.channels_last)
    expected = layer(x)
    assert layer(x[:0]).shape == (0, 32, 6, 6)
    torch.testing.assert_close(layer(x.contiguous()), expected)
    torch.testing.assert_close(layer(x.double().float()[:, :, :5]), layer.reference(x[:, :, :5]))
    for other in (x[:, :16], x[0], x.flatten()):
        with pytest.raises(ConfigError, match="32 input channels got an input of shape"):
            layer(other)
    with pytest.raises(TrainingError, match="gives no gradient"):
        layer(x.clone().requires_grad_())
    with torch.no_grad():
        assert layer(x.clone().requires_grad_()).equal(expected)
    assert torch.func.vmap(layer)(x[None])[0].shape == expected.shape
    with warnings.catch_warnings(action="ignore"):
        traced = torch.jit.trace(layer, x, check_trace=False)
    torch.testing.assert_close(traced(x), expected)
    torch.testing.assert_close(copy.deepcopy(layer)(x), expected)
    torch.testing.assert_close(copy.deepcopy(layer).double()(x.double()).float(), expected)
    one = packed(nn.Conv2d(1, 8, 3, padding=1), "bnn")
    turned = torch.complex(torch.randn(1, 1, 5, 5), torch.randn(1, 1, 5, 5)).conj().imag  # negated when read
    assert turned.is_neg()
    for _ in range(2):
        torch.testing.assert_close(one(turned), one.reference(turned.resolve_neg()))
    recorded = torch.fx.experimental.proxy_tensor.make_fx(layer)(x)
    torch.testing.assert_close(recorded(2 * x - 0.1), layer(2 * x - 0.1))
    layer.vectors.mul_(2.0)  # the network's own memory
    torch.testing.assert_close(layer(x), layer.reference(x))


def test_nan_stays_nan() -> None:
    layer = packed(nn.Conv2d(32, 16, 3, padding=1))
    layer.options = RuntimeOptions(exact_scales=False)
    x = torch.randn(1, 32, 6, 6)
    x[0, 3, 2, 2] = torch.nan
    assert layer(x).isnan().any()


@pytest.mark.parametrize(
    ("layer", "method", "reason"),
    [
        (nn.Conv2d(768, 1536, 3, padding=1, groups=768), "bidense", "more channels than the tables"),
        (nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"), "bnn", "padding_mode=reflect"),
        (nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular"), "adabin", "padding_mode=circular"),
    ],
)
def test_what_torch_computes_says_why(layer: nn.Module, method: str, reason: str) -> None:
    found = packed(layer, method)
    if method == "bidense" and features().isa != "avx512":
        reason = "fewer than 8 channels" if features().isa == "amx" else "without AVX-512"
    assert reason in (found.why_by_torch() or "")
    x = torch.randn(1, found.spec.in_channels, 8, 8)
    assert found(x).equal(found.reference(x))


QUANTIZERS = {
    "adabin": QuantizerSpec(kind="adabin"),
    "sign": QuantizerSpec(kind="sign"),
    "redistributed": QuantizerSpec(kind="redistributed"),
    "per image": QuantizerSpec(kind="dab", threshold="b", scale="adaptive", granularity="layer"),
    "per channel": QuantizerSpec(kind="dab", threshold="mean", scale="mad", granularity="channel"),
}


@st.composite
def geometries(draw: st.DrawFn) -> dict[str, Any]:
    """Kind, channels and geometry of a layer, by the names of `PackedSpec`."""
    kind = draw(st.sampled_from(["conv", "depthwise", "transposed", "linear"]))
    inside, outputs = draw(st.sampled_from([1, 3, 32, 70])), draw(st.sampled_from([1, 16, 37]))
    if kind == "linear":
        return {"kind": kind, "in_channels": inside, "out_channels": outputs}

    def two(low: int, high: int) -> tuple[int, int]:
        return draw(st.integers(low, high)), draw(st.integers(low, high))

    groups = inside if kind == "depthwise" else draw(st.integers(1, 3))
    low, high = two(0, 2), two(0, 2)
    found = {
        "kind": "conv" if kind == "depthwise" else kind,
        "in_channels": inside if kind == "depthwise" else inside * groups,
        "out_channels": inside if kind == "depthwise" else outputs * groups,
        "kernel": two(1, 3),
        "stride": two(1, 2),
        "dilation": two(1, 2),
        "groups": groups,
        "padding": tuple(zip(low, low if kind == "transposed" else high, strict=True)),
    }
    if kind == "transposed":
        return found | {"output_padding": (0, 0)}
    return found | {"same": True, "padding": ((0, 0), (0, 0))} if draw(st.booleans()) else found


@pytest.mark.parametrize("isa", features().isas)
@given(
    geometry=geometries(),
    quantizer=st.sampled_from(["adabin", "adabin", *QUANTIZERS]),
    offset=st.booleans(),
    threads=st.integers(1, 2),
    seed=st.integers(0, 1000),
)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_two_values_like_the_reference(
    isa: Any, geometry: dict[str, Any], quantizer: str, offset: bool, threads: int, seed: int
) -> None:
    spec = PackedSpec(quantizer=QUANTIZERS[quantizer], offset=offset, **geometry)
    torch.manual_seed(seed)
    layer = PackedLayer(spec)
    layer.bits.random_(256)
    layer.vectors.normal_()
    layer.options = RuntimeOptions(threads=threads, exact_scales=True)
    x = torch.randn(2, 5, spec.in_channels) if not spec.kernel else torch.randn(2, spec.in_channels, 9, 10)
    try:
        native.set_isa(isa)
        reason = layer.why_by_torch()
        with torch.no_grad():
            got, expected = layer(x), layer.reference(x)
    finally:
        native.set_isa("auto")
    alone = spec.groups == spec.in_channels == spec.out_channels and spec.kind == "conv"
    narrow = spec.groups > 1 and spec.in_channels // spec.groups < 8  # of which torch is faster than AMX
    tables = isa == "avx512" or (isa == "amx" and not narrow)
    tables = tables and not offset and spec.kind != "transposed"
    assert (reason is None) == (quantizer != "per channel" or alone or tables)
    # the reference is a convolution of torch in float32, whose sums of up to 2,000 products with an offset
    # are off by 1e-5 of the largest (the kernels' by 3e-7); one wrong sign is 1e-3
    assert relative_difference(got, expected) < 5e-5


def test_values_of_a_turned_comparison() -> None:
    layer = packed(nn.Conv2d(8, 8, 3, padding=1), "adabin")
    for alpha in (-0.5, 0.5, 0.0):
        layer.vector("alpha").fill_(alpha)
        layer.vector("beta").fill_(0.25)
        again = copy.deepcopy(layer)  # has not looked at its vectors yet
        x = torch.tensor([-1.0, -0.0, 0.0, 0.25, 1.0]).repeat(40)[:200].view(1, 8, 5, 5)
        assert again.why_by_torch() is None
        torch.testing.assert_close(again(x), again.reference(x), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # of a tracer that is on its way out
def test_traced_and_transformed() -> None:
    layer = packed(nn.Conv2d(40, 24, 3, padding=1))
    x = torch.randn(2, 40, 6, 6)
    with torch.no_grad():
        traced = torch.jit.trace(layer, x, check_trace=False)
        torch.testing.assert_close(traced(2 * x), layer(2 * x), rtol=1e-4, atol=1e-4)
        mapped = torch.func.vmap(layer)(x[:, None])
        torch.testing.assert_close(mapped[:, 0], layer(x), rtol=1e-4, atol=1e-4)


def test_groups_of_channels_without_scales() -> None:
    torch.manual_seed(0)
    layer = packed(nn.Conv2d(64, 64, 3, padding=1, groups=2), granularity="group", scale="none")
    x = torch.randn(2, 64, 5, 5)
    assert layer.why_by_torch() is None
    torch.testing.assert_close(layer(x), layer.reference(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("granularity", ["channel", "group", "layer"])
@pytest.mark.parametrize("shape", [(64,), (3, 64), (2, 3, 64)])
def test_linear_layers_with_a_dab_take_any_number_of_dims(granularity: Any, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer: Any = binarize.binary_layer(nn.Linear(64, 8), "bnn").eval()
    layer.quantizer = DAB(64, granularity, dim=-1, groups=2)
    for parameter in layer.quantizer.parameters():
        parameter.data.normal_()
    x = torch.randn(shape)
    rows = x.reshape(-1, 1, 64) if len(shape) < 3 else x
    alone = lower(layer)
    assert isinstance(alone, PackedLayer)
    alone.options = RuntimeOptions(exact_scales=True)
    with torch.no_grad():
        wanted = layer(rows).reshape(*shape[:-1], 8)
        for got in (layer(x), alone(x), alone.reference(x)):
            torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(len(features().isas) < 2, reason="one instruction set only")
def test_programs_made_after_another_instruction_set_was_chosen() -> None:
    torch.manual_seed(0)
    layer = packed(nn.Conv2d(64, 64, 3, padding=1), granularity="layer")
    x = torch.randn(1, 64, 6, 6).contiguous(memory_format=torch.channels_last)
    net: Any = nn.Sequential(layer).eval()
    with torch.inference_mode():
        expected = layer(x)
        try:
            native.set_isa("portable")
            alone = Programs(net)
            for _ in range(3):
                got = net(x)
            assert alone.programs()
        finally:
            native.set_isa("auto")
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
