"""The float convolution of few channels against torch in double, on every instruction set."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from native.steps import ISAS
from torch import Tensor
from torch.nn import functional as F

from binarize import native
from binarize.errors import NativeError
from binarize.native import structs
from binarize.native.library import load
from native import reference

pytestmark = pytest.mark.skipif(not native.available(), reason="the native kernels are not built")
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
LAYOUTS = ("first", "last", "strided", "expanded")


def sizes(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def stems(draw: st.DrawFn) -> dict[str, Any]:
    """Everything that a stem is made of, of shapes that have an output."""
    channels = draw(st.sampled_from([1, 2, 3, 4, 5, 16, 17]))
    outputs = draw(st.sampled_from([1, 7, 16, 24, 33, 64, 70, 96]))
    kernel, stride, padding = draw(sizes(1, 7)), draw(sizes(1, 5)), draw(sizes(0, 4))
    low = [max(1, k - 2 * p) for k, p in zip(kernel, padding, strict=True)]
    h, w = draw(st.integers(low[0], low[0] + 12)), draw(st.integers(low[1], low[1] + 30))
    n, layout = draw(st.integers(1, 3)), draw(st.sampled_from(LAYOUTS))
    random = torch.Generator().manual_seed(draw(st.integers(0, 1 << 30)))
    x = laid_out(torch.randn(n, channels, h, w, generator=random), layout)
    weight = torch.randn(outputs, channels, *kernel, generator=random)
    size = F.conv2d(x[:, :1], weight[:1, :1], stride=stride, padding=padding).shape[2:]
    pool = None
    if draw(st.booleans()):
        window = draw(sizes(1, 4))
        around = tuple(draw(st.integers(0, k // 2)) for k in window)
        if all(s + 2 * p >= k for s, k, p in zip(size, window, around, strict=True)):
            pool = native.MaxPool(kernel=window, stride=draw(sizes(1, 5)), padding=around)  # type: ignore[arg-type]
    return {
        "x": x,
        "weight": weight,
        "geometry": {"stride": stride, "padding": padding},
        "pool": pool,
        "epilogue": epilogue(draw(st.sampled_from(["none", "piecewise", "clamp"])), outputs, random),
        "norm": norm(outputs, random) if draw(st.booleans()) else None,
        "sums": torch.empty(n, outputs),
        "threads": draw(st.integers(1, 3)),
    }


def laid_out(x: Tensor, layout: str) -> Tensor:
    if layout == "last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        n, c, h, w = x.shape
        return torch.empty(n, 2 * w, c + 1, h).permute(0, 2, 3, 1)[:, 1:, :, ::2].copy_(x)
    return x[:1, :1].expand(x.shape) if layout == "expanded" else x


def epilogue(kind: str, outputs: int, random: torch.Generator) -> native.Epilogue:
    def some() -> Tensor:
        return torch.randn(outputs, generator=random)

    arrays = {name: some() for name in ("before", "negative", "positive", "after")}
    first = native.Activation(kind="clamp", low=-0.5, high=2.0)
    if kind != "clamp":
        first = native.Activation(kind="piecewise", **arrays) if kind == "piecewise" else native.Activation()
    return native.Epilogue(mul=some(), add=some(), first=first)


def norm(outputs: int, random: torch.Generator) -> native.Norm:
    mean, weight, bias = (torch.randn(outputs, generator=random) for _ in range(3))
    variance = torch.rand(outputs, generator=random) + 0.5
    return native.Norm(mean=mean, variance=variance, weight=weight, bias=bias, eps=1e-3)


def run(stem: dict[str, Any], isa: Any, threads: int) -> Tensor:
    parts = {name: stem[name] for name in ("pool", "norm", "sums")}
    parts |= {"threads": threads, "isa": isa, **stem["geometry"]}
    return native.conv_stem(stem["x"], stem["weight"], stem["epilogue"], **parts)


def check(stem: dict[str, Any], isa: Any) -> None:
    y = run(stem, isa, stem["threads"])
    parts = {"norm": stem["norm"], "pool": stem["pool"], **stem["geometry"]}
    expected = reference.stem(stem["x"].double(), stem["weight"], stem["epilogue"], **parts)
    # rounding of a sum of n products: some sqrt(n) last digits of numbers around 1, times mul and slopes
    slack = 2e-5 * stem["weight"][0].numel() ** 0.5
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=slack)
    assert y.is_contiguous(memory_format=torch.channels_last)
    sums, positions = stem["sums"], expected[0, 0].numel()
    torch.testing.assert_close(sums.double(), expected.sum((2, 3)), rtol=1e-5, atol=slack * positions)


@pytest.mark.parametrize("isa", ISAS)
@given(stem=stems())
@QUICK
def test_stems(isa: Any, stem: dict[str, Any]) -> None:
    check(stem, isa)


@pytest.mark.slow
@pytest.mark.parametrize("isa", ISAS)
@given(stem=stems())
@settings(parent=QUICK, max_examples=400)
def test_many_stems(isa: Any, stem: dict[str, Any]) -> None:
    check(stem, isa)


@pytest.mark.parametrize("isa", ISAS)
@given(stem=stems())
@QUICK
def test_threads_do_not_matter(isa: Any, stem: dict[str, Any]) -> None:
    first, sums = run(stem, isa, 1), stem["sums"].clone()
    for threads in (2, 3, 5):
        assert torch.equal(run(stem, isa, threads), first)
        assert torch.equal(stem["sums"], sums)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("width", [1, 13, 97, 211])
def test_long_lines(isa: Any, width: int) -> None:
    random = torch.Generator().manual_seed(width)
    check(
        {
            "x": torch.randn(2, 3, 9, width, generator=random),
            "weight": torch.randn(40, 3, 3, 3, generator=random),
            "geometry": {"stride": 1, "padding": 1},
            "pool": native.MaxPool(kernel=(3, 3), stride=(2, 2), padding=(1, 1)),
            "epilogue": epilogue("piecewise", 40, random),
            "norm": norm(40, random),
            "sums": torch.empty(2, 40),
            "threads": 2,
        },
        isa,
    )


@pytest.mark.parametrize("isa", ISAS)
def test_padding_of_the_pool_counts_nothing(isa: Any) -> None:
    x = torch.rand(1, 3, 6, 6)
    pool = native.MaxPool(kernel=(3, 3), stride=(2, 2), padding=(1, 1))
    y = native.conv_stem(x, -torch.ones(20, 3, 1, 1), pool=pool, isa=isa)
    torch.testing.assert_close(y[:, :1], F.max_pool2d(-x.sum(1, keepdim=True), 3, 2, 1))
    assert (y < 0).all()  # a padded 0 would be larger


@pytest.mark.parametrize("isa", ISAS)
def test_nan_and_infinity_pass_as_in_torch(isa: Any) -> None:
    x = torch.randn(1, 1, 9, 9)
    x[0, 0, 2, 2], x[0, 0, 6, 1], x[0, 0, 5, 7] = float("nan"), float("inf"), -float("inf")
    weight, pool = torch.ones(17, 1, 1, 1), native.MaxPool(kernel=(3, 3), stride=(1, 1), padding=(1, 1))
    for kind, low in (("none", 0.0), ("clamp", -1.0), ("piecewise", 0.0)):
        e = native.Epilogue(first=native.Activation(kind=kind, low=low, high=1.0))  # type: ignore[arg-type]
        y = native.conv_stem(x, weight, e, pool=pool, isa=isa)
        before = {"none": x, "clamp": x.clamp(-1, 1), "piecewise": x.relu()}[kind]
        expected = F.max_pool2d(before, 3, 1, 1).expand(-1, 17, -1, -1)
        assert torch.equal(y.isnan(), expected.isnan())
        assert expected.isnan().any()
        torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)


def test_arguments_that_do_not_fit() -> None:
    x, weight = torch.randn(1, 3, 8, 8), torch.randn(4, 3, 3, 3)
    with pytest.raises(NativeError, match="stem: weight"):
        native.conv_stem(x, torch.randn(4, 2, 3, 3))
    with pytest.raises(NativeError, match="smaller than the kernel"):
        native.conv_stem(x, torch.randn(4, 3, 9, 9))
    with pytest.raises(NativeError, match="no negative padding"):
        native.conv_stem(x, weight, padding=-1)
    with pytest.raises(NativeError, match="half the kernel"):
        native.conv_stem(x, weight, pool=native.MaxPool(kernel=(2, 2), stride=(1, 1), padding=(2, 1)))
    with pytest.raises(NativeError, match="more than mul"):
        native.conv_stem(x, weight, native.Epilogue(residual=torch.randn(1, 4, 6, 6)))
    with pytest.raises(NativeError, match="more than mul"):
        native.conv_stem(x, weight, native.Epilogue(midpoint=1.0))


def arguments() -> dict[str, Any]:
    """Of a call of the library that it takes."""
    x, weight, out = torch.randn(1, 3, 8, 8), torch.randn(4, 3, 3, 3), torch.empty(1, 4, 4, 4)
    plane = structs.PlaneShape(1, 8, 8, 3, 1, 1, 1)
    e = structs.Epilogue()
    e.out = structs.Map(out.data_ptr(), 64, 16, 4, 1)
    return {
        "shape": structs.ConvShape(plane, 4, 3, 3, 1, 1, 1, 1, 1, 1, 8, 8),
        "x": structs.Map(x.data_ptr(), 192, 8, 1, 64),
        "weight": weight,
        "norm": None,
        "pool": structs.Pool(3, 3, 2, 2, 1, 1, 4, 4),
        "epilogue": e,
        "held": (x, out),
    }


def status(given: dict[str, Any], isa: int = 0, threads: int = 1) -> int:
    lib = load()
    assert lib is not None
    names = ("shape", "x", "norm", "pool", "epilogue")
    parts = {name: None if given[name] is None else ctypes.byref(given[name]) for name in names}
    weight = None if given["weight"] is None else given["weight"].data_ptr()
    shape, x, *others = parts.values()
    return lib.bz_stem(isa, threads, shape, x, weight, *others)


def test_the_library_refuses_what_it_cannot_read() -> None:
    assert status(arguments()) == 0
    assert status(arguments() | {"pool": None, "epilogue": small_epilogue()}) == 0
    assert status(arguments(), threads=0) == 1
    assert status(arguments(), isa=9) == 4
    for name in ("shape", "x", "weight", "epilogue"):
        assert status(arguments() | {name: None}) == 1, name
    changes = {
        "shape": [
            "out_h=9",
            "out_w=0",
            "dilation_h=2",
            "kernel_h=0",
            "pad_top=2",
            "stride_w=0",
            "out_channels=0",
        ],
        "x": ["data=0", "row=-1", "channel=-64"],
        "pool": ["kernel_h=0", "stride_w=0", "pad_h=3", "pad_w=-1", "out_h=6", "out_w=0"],
        "epilogue": ["midpoint=1", "tail.channels=3", "first.kind=7", "out.data=0", "out.channel=2"],
    }
    for name, fields in changes.items():
        for change in fields:
            bad = arguments()
            path, _, value = change.partition("=")
            *outer, field = path.split(".")
            target = bad[name]
            for part in outer:
                target = getattr(target, part)
            setattr(target, field, int(value))
            assert status(bad) == 1, (name, change)
    for field in ("offset", "sample_scale"):
        bad = arguments()
        setattr(bad["epilogue"], field, bad["weight"].data_ptr())
        assert status(bad) == 1, field
    for field in ("bypass", "residual"):
        bad = arguments()
        setattr(bad["epilogue"], field, bad["epilogue"].out)
        bad["epilogue"].bypass_channels = 4
        assert status(bad) == 1, field
    assert status(arguments() | {"norm": structs.Norm()}) == 1
    grouped = arguments()
    grouped["shape"].input.groups = 3
    grouped["shape"].out_channels = 3
    assert status(grouped) == 1
    large = arguments()
    large["pool"] = structs.Pool(33, 33, 1, 1, 32, 32, 8, 8)
    assert status(large) == 3


def small_epilogue() -> structs.Epilogue:
    e = structs.Epilogue()
    out = torch.empty(1, 4, 8, 8)
    small_epilogue.held = out  # type: ignore[attr-defined]
    e.out = structs.Map(out.data_ptr(), 256, 32, 4, 1)
    return e


def test_the_result_of_an_inference_mode_counts_changes() -> None:
    with torch.inference_mode():
        x, weight, sums = torch.randn(1, 3, 8, 8), torch.randn(4, 3, 3, 3), torch.empty(1, 4)
        y = native.conv_stem(x, weight, sums=sums)
        before = y._version
        y.add_(1)
        assert y._version > before
