"""Steps of programs against torch, on every instruction set."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
import torch
from native.steps import (
    CHANNELS,
    ISAS,
    address,
    blank,
    instruction,
    last,
    map_of,
    must,
    pointwise,
    run,
    sliced,
    whole,
)
from torch import Tensor
from torch.nn import functional as F

from binarize import native
from binarize.functional import channel_bypass
from binarize.native import structs
from binarize.native.epilogue import Activation
from binarize.native.library import load

pytestmark = pytest.mark.skipif(not native.available(), reason="the native kernels are not built")
INF, NAN = float("inf"), float("nan")

ONE = {
    "neg": lambda x: -x,
    "abs": torch.abs,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "exp": torch.exp,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "square": torch.square,
    "copy": lambda x: x,
}
TWO = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "min": torch.minimum,
    "max": torch.maximum,
}
NUMBERS = {
    ("clamp", -0.5, 0.7): lambda x: x.clamp(-0.5, 0.7),
    ("elu", 1.3, 0.0): lambda x: F.elu(x, 1.3),
    ("softplus", 1.5, 20.0): lambda x: F.softplus(x, 1.5, 20.0),
    ("leaky", 0.1, 0.0): lambda x: F.leaky_relu(x, 0.1),
    ("add_scalar", 0.3, 0.0): lambda x: x + 0.3,
    ("mul_scalar", 0.3, 0.0): lambda x: x * 0.3,
}
SPECIAL = [0.0, -0.0, INF, -INF, NAN, 1e-40, -1e-40, 88.5, 90.0, -88.0, -90.0, -103.0, 1e30, -1e30, 1e-30]


def one_map(x: Tensor, instructions: list[Any], source: int, isa: str, threads: int = 1) -> Tensor:
    out = blank(*x.shape)
    step = pointwise(tuple(x.shape), [map_of(x)], instructions, [(source, out, None)])
    must("pointwise", step, isa, threads)
    return out


def values(count: int = 4000) -> Tensor:
    torch.manual_seed(count)
    spread = torch.randn(count) * torch.logspace(-6, 2, count)
    return last(torch.cat([spread, torch.tensor(SPECIAL), torch.randn(101)]).view(1, 1, 1, -1))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", [*ONE, *NUMBERS])
def test_functions(isa: str, op: Any) -> None:
    x = values()
    name, p, q = op if isinstance(op, tuple) else (op, 0.0, 0.0)
    function = NUMBERS[op] if isinstance(op, tuple) else ONE[op]
    y = one_map(x, [instruction(name, 1, 0, p=p, q=q)], 1, isa)
    exact = function(x.double()).float()
    expected = function(x)
    # torch's own gelu of infinity is NaN in float32 with AVX-512, and infinity elsewhere
    agreed = expected.isnan() == exact.isnan()
    assert torch.equal(y.isnan()[agreed], expected.isnan()[agreed])
    # torch's own formulas lose digits where they cancel, and overflow before the function does
    close = torch.isclose(y, expected, rtol=1e-6, atol=4e-7, equal_nan=True)
    close |= torch.isclose(y, exact, rtol=1e-6, atol=4e-7, equal_nan=True)
    assert close.all(), (x[~close], y[~close], expected[~close])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", TWO)
def test_functions_of_two(isa: str, op: str) -> None:
    x, out = values(), blank(1, 1, 1, values().shape[3])
    other = x.flip(3).contiguous()
    step = pointwise(
        (1, 1, 1, x.shape[3]), [map_of(x), map_of(other)], [instruction(op, 2, 0, 1)], [(2, out, None)]
    )
    must("pointwise", step, isa)
    torch.testing.assert_close(out, TWO[op](x, other), rtol=0, atol=0, equal_nan=True)


def test_functions_are_accurate() -> None:
    """In units of the last digit, against double."""
    x = last(torch.linspace(-9, 9, 200_000).view(1, 1, 1, -1))
    wide = last(torch.linspace(-87, 88, 200_000).view(1, 1, 1, -1))
    for op, function, given, limit in (
        ("exp", torch.exp, wide, 2.0),
        ("tanh", torch.tanh, x, 4.0),
        ("sigmoid", torch.sigmoid, x, 3.0),
        ("elu", F.elu, x, 3.0),
        ("softplus", F.softplus, x, 4.0),
    ):
        y = one_map(given, [instruction(op, 1, 0, p=1.0, q=20.0)], 1, "auto")
        exact = function(given.double())
        ulp = torch.nextafter(exact.float().abs(), torch.tensor(INF)).double() - exact.float().abs().double()
        worst = ((y.double() - exact).abs() / ulp).max().item()
        assert worst < limit, (op, worst)


def layout(x: Tensor, kind: str) -> tuple[Tensor, structs.Map, Tensor]:
    """An operand: the tensor that owns memory, its map, and what it stands for."""
    if kind == "dense":
        x = last(x)
        return x, map_of(x), x
    if kind == "slice":
        x = sliced(x)
        return x, map_of(x), x
    n, c, h, w = x.shape
    if kind == "channels":
        v = x[0, :, 0, 0].contiguous()
        return v, structs.Map(v.data_ptr(), 0, 0, 0, 1), v.view(1, c, 1, 1).expand(x.shape)
    if kind == "images":
        v = x[:, :, 0, 0].contiguous()
        return v, structs.Map(v.data_ptr(), c, 0, 0, 1), v.view(n, c, 1, 1).expand(x.shape)
    if kind == "positions":
        v = x[:, :1].contiguous()
        return v, structs.Map(v.data_ptr(), h * w, w, 1, 0), v.expand(x.shape)
    v = x[:1, :1, :1, :1].contiguous()
    return v, structs.Map(v.data_ptr(), 0, 0, 0, 0), v.expand(x.shape)


LAYOUTS = ("dense", "slice", "channels", "images", "positions", "number")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("channels", [*CHANNELS, 1100])
@pytest.mark.parametrize("out", ["dense", "slice"])
def test_operands_of_all_layouts(isa: str, channels: int, out: str) -> None:
    torch.manual_seed(channels)
    shape = (2, channels, 5, 7)
    for first in ("dense", "slice"):
        for second in LAYOUTS:
            x, y = layout(torch.randn(shape), first), layout(torch.randn(shape), second)
            v = [torch.randn(channels) for _ in range(2)]
            to, more = blank(*shape, sliced=out == "slice"), blank(*shape)
            sums = torch.full((2, channels), NAN)
            steps = [
                instruction("mul", 2, 0, 1),
                instruction("affine", 2, 2, v=v),
                instruction("add", 3, 2, 1),
            ]
            step = pointwise(shape, [x[1], y[1]], steps, [(3, to, sums), (2, more, None)])
            must("pointwise", step, isa, threads=2)
            expected = x[2] * y[2]
            expected = expected * v[0].view(1, -1, 1, 1) + v[1].view(1, -1, 1, 1)
            assert torch.equal(more, expected), (first, second)
            assert torch.equal(to, expected + y[2]), (first, second)
            torch.testing.assert_close(
                sums, (expected + y[2]).double().sum((2, 3)).float(), rtol=1e-5, atol=1e-4
            )
            if out == "slice":
                assert whole(to).isnan().all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("kind", ["dense", "slice"])
def test_results_in_place(isa: str, channels: int, kind: str) -> None:
    shape = (2, channels, 9, 6)
    x, y = layout(torch.randn(shape), kind)[0], last(torch.randn(shape))
    before, other = x.clone(), blank(*shape)
    # the first result is made before the operand that it replaces is read for the last time
    steps = [instruction("relu", 2, 0), instruction("silu", 3, 0), instruction("add", 3, 3, 1)]
    must("pointwise", pointwise(shape, [map_of(x), map_of(y)], steps, [(2, x, None), (3, other, None)]), isa)
    assert torch.equal(x, before.relu())
    torch.testing.assert_close(other, F.silu(before) + y)
    # two maps change places
    a, b = x.clone(), y.clone()
    must("pointwise", pointwise(shape, [map_of(x), map_of(y)], [], [(0, y, None), (1, x, None)]), isa)
    assert torch.equal(x, b)
    assert torch.equal(y, a)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("channels", CHANNELS)
def test_piecewise_and_affine(isa: str, channels: int) -> None:
    x = last(torch.randn(1, channels, 20, 30))
    arrays: list[Tensor | None] = [torch.randn(channels) for _ in range(4)]
    for missing in ((), (0,), (1, 3), (2,), (0, 1, 2, 3)):
        v = [None if i in missing else a for i, a in enumerate(arrays)]
        wide = [None if a is None else a.view(1, -1, 1, 1) for a in v]
        t = x if wide[0] is None else x + wide[0]
        below = torch.zeros_like(t) if wide[1] is None else t * wide[1]
        t = torch.where(t < 0, below, t if wide[2] is None else t * wide[2])
        expected = t if wide[3] is None else t + wide[3]
        assert torch.equal(one_map(x, [instruction("piecewise", 1, 0, v=v)], 1, isa), expected)
        expected = x if wide[0] is None else x * wide[0]
        expected = expected if wide[1] is None else expected + wide[1]
        assert torch.equal(one_map(x, [instruction("affine", 1, 0, v=v)], 1, isa), expected)


@pytest.mark.parametrize("isa", ISAS)
def test_registers_are_used_again(isa: str) -> None:
    """A long chain that writes to operands' registers, too."""
    shape = (1, 24, 11, 13)
    x, v, out = last(torch.randn(shape)), torch.randn(24), blank(1, 24, 11, 13)
    steps = [
        instruction("add", 1, 0, 1),
        instruction("mul", 0, 0, 1),
        instruction("sub", 15, 0, 1),
        instruction("max", 0, 15, 0),
        instruction("square", 0, 0),
    ]
    step = pointwise(shape, [map_of(x), structs.Map(v.data_ptr(), 0, 0, 0, 1)], steps, [(0, out, None)])
    for _ in range(2):  # nothing is left over from the first call
        must("pointwise", step, isa, threads=2)
        s = x + v.view(1, -1, 1, 1)
        assert torch.equal(out, torch.maximum(x * s - s, x * s).square())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("channels", [*CHANNELS, 1000])
@pytest.mark.parametrize("kind", ["dense", "slice"])
def test_layer_norm(isa: str, channels: int, kind: str) -> None:
    shape = (2, channels, 5, 9)
    x = layout(torch.randn(shape) * 3 + 5, kind)[0]
    weight, bias, sums = torch.randn(channels), torch.randn(channels), torch.full((2, channels), NAN)
    for w, b in ((weight, bias), (None, None), (weight, None)):
        out = blank(*shape, sliced=kind == "slice")
        step = structs.LayerNormStep(2, 5, 9, channels, map_of(x), map_of(out), address(w), address(b), 1e-6)
        step.sums = sums.data_ptr()
        must("layer_norm", step, isa, threads=2)
        expected = F.layer_norm(
            x.permute(0, 2, 3, 1).double(),
            (channels,),
            None if w is None else w.double(),
            None if b is None else b.double(),
            1e-6,
        ).permute(0, 3, 1, 2)
        torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(sums.double(), expected.sum((2, 3)), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("channels", "carried"),
    [(48, 48), (96, 48), (144, 16), (35, 7), (40, 16), (16, 48), (300, 77), (130, 400)],
)
@pytest.mark.parametrize("kind", ["dense", "slice"])
def test_what_stands_behind_a_layer_norm(isa: str, channels: int, carried: int, kind: str) -> None:
    shape = (2, channels, 3, 7)
    x, residual = (layout(torch.randn(shape), kind)[0] for _ in range(2))
    bypass = layout(torch.randn(2, carried, 3, 7), kind)[0]
    weight = torch.rand(channels) + 0.5
    vectors = {name: torch.randn(channels) for name in ("before", "negative", "positive", "after")}
    first = Activation(kind="piecewise", **vectors)
    second = Activation(kind="clamp", low=-0.5, high=1.5)
    sums = torch.full((2, channels), NAN)
    normed = F.layer_norm(x.permute(0, 2, 3, 1), (channels,), weight, None, 1e-5)
    for parts in range(16):
        step = structs.LayerNormStep(2, 3, 7, channels, map_of(x), eps=1e-5, weight=address(weight))
        expected, out = normed, blank(*shape, sliced=kind == "slice")
        step.out, step.sums = map_of(out), address(sums)
        if parts & 1:
            step.first, expected = first.struct(), first(expected, -1)
        if parts & 2:
            step.bypass, step.bypass_channels = map_of(bypass), carried
            expected = expected + channel_bypass(bypass.permute(0, 2, 3, 1), channels, -1)
        if parts & 4:
            step.second, expected = second.struct(), second(expected, -1)
        if parts & 8:
            step.residual, expected = map_of(residual), expected + residual.permute(0, 2, 3, 1)
        must("layer_norm", step, isa, threads=2)
        torch.testing.assert_close(out.permute(0, 2, 3, 1), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(sums, expected.sum((1, 2)), rtol=1e-4, atol=1e-3)


POOLS = [
    ((3, 3), (2, 2), (1, 1), False),
    ((2, 2), (2, 2), (0, 0), True),
    ((5, 3), (1, 2), (2, 1), True),
    ((9, 9), (9, 9), (0, 0), False),
]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("pool", POOLS)
def test_pools(isa: str, channels: int, pool: Any) -> None:
    kernel, stride, padding, ceil = pool
    x = layout(torch.randn(2, channels, 9, 13), "slice")[0]
    x[0, 0, 4, 4] = NAN
    calls: list[tuple[dict[str, int], Tensor]] = [
        ({"average": 0}, F.max_pool2d(x, kernel, stride, padding, ceil_mode=ceil)),
        ({"average": 1}, F.avg_pool2d(x, kernel, stride, padding, ceil, count_include_pad=False)),
        ({"average": 1, "count_include_pad": 1}, F.avg_pool2d(x, kernel, stride, padding, ceil)),
        ({"average": 1, "divisor": 5}, F.avg_pool2d(x, kernel, stride, padding, ceil, divisor_override=5)),
    ]
    for options, expected in calls:
        h, w = expected.shape[2:]
        out, sums = blank(2, channels, h, w, sliced=True), torch.empty(2, channels)
        step = structs.PoolStep(
            images=2, channels=channels, height=9, width=13, x=map_of(x), out=map_of(out), **options
        )
        step.geometry = structs.Pool(*kernel, *stride, *padding, h, w)
        step.sums = sums.data_ptr()
        must("pool", step, isa, threads=2)
        torch.testing.assert_close(out, expected, equal_nan=True, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(sums, expected.sum((2, 3)), equal_nan=True, rtol=1e-4, atol=1e-4)
        assert whole(out).isnan().all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("size", [(1, 1), (3, 6), (9, 13), (11, 20)])
def test_adaptive_pools(isa: str, size: tuple[int, int]) -> None:
    x = last(torch.randn(2, 19, 9, 13))
    for average, function in ((1, F.adaptive_avg_pool2d), (0, F.adaptive_max_pool2d)):
        out = blank(2, 19, *size)
        step = structs.PoolStep(images=2, channels=19, height=9, width=13, x=map_of(x), out=map_of(out))
        step.geometry.out_h, step.geometry.out_w = size
        step.average, step.adaptive = average, 1
        must("pool", step, isa)
        torch.testing.assert_close(out, function(x, size), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("kind", ["dense", "slice"])
def test_means(isa: str, channels: int, kind: str) -> None:
    x = layout(torch.randn(2, channels, 15, 9), kind)[0]
    out = torch.empty(2, channels)
    step = structs.MeanStep(2, 15, 9, channels, map_of(x), None, out.data_ptr())
    must("mean", step, isa, threads=2)
    torch.testing.assert_close(out, x.double().mean((2, 3)).float(), rtol=1e-5, atol=1e-6)
    sums = torch.randn(2, channels)
    step.x.data, step.sums = None, sums.data_ptr()
    must("mean", step, isa)
    assert torch.equal(out, sums / 135)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    "shape", [(1, 7, 3), (1, 512, 1000), (2, 100, 40), (5, 33, 17), (13, 64, 100), (250, 1100, 90)]
)
def test_linear(isa: str, shape: tuple[int, int, int]) -> None:
    rows, inputs, outputs = shape
    torch.manual_seed(rows)
    x, weight, bias = torch.randn(rows, inputs + 3), torch.randn(outputs, inputs), torch.randn(outputs)
    wide = torch.full((outputs, inputs + 2), NAN)
    wide[:, :inputs] = weight
    scale = inputs**0.5
    for op, function in (("copy", lambda y: y), ("relu", torch.relu), ("gelu", F.gelu)):
        for b in (None, bias):
            y = torch.full((rows, outputs + 5), NAN)
            step = structs.LinearStep(rows, inputs, outputs, structs.OPS[op], x.data_ptr(), inputs + 3)
            step.weights, step.weights_row, step.add = wide.data_ptr(), inputs + 2, address(b)
            step.y, step.y_row = y.data_ptr(), outputs + 5
            must("linear", step, isa, threads=2)
            expected = function(
                F.linear(x[:, :inputs].double(), weight.double(), None if b is None else bias.double())
            )
            torch.testing.assert_close(y[:, :outputs].double(), expected, rtol=1e-5, atol=2e-6 * scale)
            assert y[:, outputs:].isnan().all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", [(1, 7, 3), (1, 512, 1000), (2, 300, 40), (33, 64, 17), (130, 64, 100)])
def test_linear_reads_bfloat16_weights(isa: str, shape: tuple[int, int, int]) -> None:
    """Bit for bit: the weights are widened, and multiplied in the same order."""
    rows, inputs, outputs = shape
    torch.manual_seed(rows)
    x, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs).bfloat16()
    blocks = -(-outputs // 16)
    halves = torch.zeros(blocks, inputs, 16, dtype=torch.bfloat16)
    for o in range(outputs):
        halves[o // 16, :, o % 16] = weight[o]
    wide, bias = weight.float(), torch.randn(outputs)
    made = []
    for name, data in (("weights", wide), ("bf16_weights", halves)):
        y = torch.full((rows, outputs), NAN)
        step = structs.LinearStep(rows, inputs, outputs, structs.OPS["copy"], x.data_ptr(), inputs)
        step.weights_row, step.add, step.y, step.y_row = inputs, bias.data_ptr(), y.data_ptr(), outputs
        setattr(step, name, data.data_ptr())
        must("linear", step, isa, threads=2)
        made.append(y)
    assert torch.equal(*made)
    expected = F.linear(x.double(), wide.double(), bias.double())
    torch.testing.assert_close(made[0].double(), expected, rtol=1e-5, atol=2e-6 * inputs**0.5)


def copy_step(x: Tensor | None, y: Tensor, value: float = 0.0) -> structs.CopyStep:
    """y = x, of the same shape and any strides."""
    step = structs.CopyStep(dims=y.dim(), value=value, x=None if x is None else x.data_ptr(), y=y.data_ptr())
    for i in range(y.dim()):
        step.size[i], step.to[i], step.from_[i] = y.shape[i], y.stride(i), 0 if x is None else x.stride(i)
    return step


def copies() -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    pairs = []
    for c in CHANNELS:
        x = torch.randn(2, c, 9, 21)
        pairs += [
            (x, blank(*x.shape)),
            (last(x), torch.full(x.shape, NAN)),
            (last(x), blank(*x.shape, sliced=True)),
        ]
    x = torch.randn(3, 4, 5, 6, 7)
    pairs += [
        (x.permute(p), torch.full(x.permute(p).shape, NAN))
        for p in ([4, 3, 2, 1, 0], [0, 3, 1, 2, 4], [1, 0, 2, 4, 3])
    ]
    pairs.append((torch.randn(2, 3, 4, 5, 6, 7).transpose(1, 4), torch.full((2, 6, 4, 5, 3, 7), NAN)))
    pairs.append((torch.randn(8, 1, 1).expand(8, 5, 9), torch.full((8, 5, 9), NAN)))
    pairs.append((torch.randn(1, 1), torch.full((1, 1), NAN)))
    pairs.append((torch.randn(50, 70)[::2, ::3], torch.full((25, 24, 2), NAN)[..., 0]))
    return pairs


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 2])
def test_copies(isa: str, threads: int) -> None:
    for x, y in copies():
        must("copy", copy_step(x, y), isa, threads)
        assert torch.equal(x, y), (x.shape, x.stride(), y.stride())
        must("copy", copy_step(None, y, 1.5), isa, threads)
        assert (y == 1.5).all()
        if y._base is not None and y.dim() == 4:
            assert whole(y).isnan().all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("size", [(18, 26), (5, 40), (9, 13), (1, 1)])
def test_resized_maps(isa: str, channels: int, size: tuple[int, int]) -> None:
    x = layout(torch.randn(2, channels, 9, 13), "slice")[0]
    for mode, name, options in (
        ("bilinear", "bilinear", {"align_corners": False}),
        ("bilinear_aligned", "bilinear", {"align_corners": True}),
        ("nearest", "nearest", {}),
        ("nearest_exact", "nearest-exact", {}),
    ):
        expected = F.interpolate(x, size, mode=name, **options)
        out, sums = blank(2, channels, *size, sliced=True), torch.empty(2, channels)
        step = structs.ResizeStep(
            2, channels, 9, 13, *size, structs.RESIZE_MODES[mode], x=map_of(x), out=map_of(out)
        )
        step.sums = sums.data_ptr()
        must("resize", step, isa, threads=2)
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(sums, expected.sum((2, 3)), rtol=1e-4, atol=1e-3)
        assert whole(out).isnan().all()


@pytest.mark.parametrize("isa", ISAS)
def test_a_given_step_of_a_resize(isa: str) -> None:
    x = last(torch.randn(1, 5, 10, 10))
    for mode, options in (("bilinear", {"align_corners": False}), ("nearest", {})):
        expected = F.interpolate(x, scale_factor=1.75, mode=mode, **options)
        out = blank(*expected.shape)
        step = structs.ResizeStep(
            1, 5, 10, 10, *out.shape[2:], structs.RESIZE_MODES[mode], 1 / 1.75, 1 / 1.75
        )
        step.x, step.out = map_of(x), map_of(out)
        must("resize", step, isa)
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("length", [1, 3, 16, 17, 49, 197])
def test_softmax(isa: str, length: int) -> None:
    x = torch.randn(37, length + 2) * 20
    x[3, 0], x[4, :length], x[5, 0] = -INF, -INF, NAN
    x[6, 0] = INF
    y = torch.full((37, length + 1), NAN)
    step = structs.SoftmaxStep(37, length, 0.3, x.data_ptr(), length + 2, y.data_ptr(), length + 1)
    must("softmax", step, isa, threads=2)
    expected = (x[:, :length] * torch.tensor(0.3)).softmax(1)
    torch.testing.assert_close(y[:, :length], expected, rtol=2e-6, atol=1e-12, equal_nan=True)
    step.y, step.y_row = x.data_ptr(), length + 2
    must("softmax", step, isa)
    torch.testing.assert_close(x[:, :length], expected, rtol=2e-6, atol=1e-12, equal_nan=True)


def test_a_program_stops_at_the_step_that_fails() -> None:
    x, y = last(torch.randn(1, 8, 4, 4)), blank(1, 8, 4, 4)
    good = pointwise((1, 8, 4, 4), [map_of(x)], [instruction("relu", 1, 0)], [(1, y, None)])
    bad = structs.MeanStep(1, 4, 4, 8, map_of(x), None, None)
    assert run(("pointwise", good), ("mean", bad), ("pointwise", good)) == (1, 1)
    assert torch.equal(y, x.relu())
    assert run() == (0, -1)


def arguments() -> dict[str, ctypes.Structure]:
    """A step of each kind that the library takes, on 4 x 4 positions of 8 channels."""
    x, y = torch.randn(4096), torch.randn(4096)
    m, out = structs.Map(x.data_ptr(), 128, 32, 8, 1), structs.Map(y.data_ptr(), 128, 32, 8, 1)
    step = pointwise(
        (1, 8, 4, 4), [m, m], [instruction("add", 2, 0, 1)], [(2, last(torch.empty(1, 8, 4, 4)), None)]
    )
    made = {
        "pointwise": step,
        "layer_norm": structs.LayerNormStep(
            1, 4, 4, 8, m, out, None, None, 1e-5, bypass=m, bypass_channels=8, residual=m
        ),
        "pool": structs.PoolStep(1, 8, 4, 4, structs.Pool(2, 2, 2, 2, 0, 0, 2, 2), 1, 0, 0, 0, m, out),
        "mean": structs.MeanStep(1, 4, 4, 8, m, None, y.data_ptr()),
        "linear": structs.LinearStep(
            2, 8, 5, 28, x.data_ptr(), 8, x.data_ptr(), 8, None, None, 0, 0, y.data_ptr(), 5
        ),
        "copy": copy_step(x.view(8, 512), y.view(8, 512)),
        "resize": structs.ResizeStep(1, 8, 4, 4, 2, 2, 0, 0, 0, m, out),
        "softmax": structs.SoftmaxStep(4, 8, 1.0, x.data_ptr(), 8, y.data_ptr(), 8),
    }
    h, to = structs.Heads(x.data_ptr(), 512, 256, 128, 8), structs.Heads(y.data_ptr(), 512, 256, 128, 8)
    sizes = (2, 2, 2, 4, 4, 8, 8, 0)
    made["attention"] = structs.AttentionStep(*sizes, 1.0, h, h, h, (structs.Heads * 2)(h), to)
    for each in made.values():
        each.memory = (x, y)  # type: ignore[attr-defined]
    return made


WRONG = {
    "pointwise": [
        "images=0",
        "channels=-1",
        "operands=0",
        "operands=17",
        "instructions=-1",
        "results=0",
        "operand=None",
        "instruction=None",
        "result=None",
    ],
    "layer_norm": [
        "width=0",
        "x.data=0",
        "out.data=0",
        "out.channel=0",
        "out.pixel=7",
        "x.row=-1",
        "eps=-1",
        "first.kind=3",
        "second.kind=-1",
        "bypass.channel=2",
        "bypass_channels=0",
        "residual.pixel=-8",
    ],
    "pool": [
        "height=0",
        "divisor=-1",
        "geometry.kernel_h=0",
        "geometry.pad_w=2",
        "geometry.out_h=3",
        "geometry.out_w=0",
        "geometry.stride_w=0",
        "x.channel=2",
        "out.row=1",
    ],
    "mean": ["height=0", "x.data=0", "out=0", "x.pixel=-8"],
    "linear": [
        "rows=0",
        "inputs=0",
        "outputs=0",
        "op=0",
        "op=10",
        "op=25",
        "op=29",
        "x=0",
        "weights=0",
        "y=0",
        "y_row=4",
        "weights_row=-1",
    ],
    "copy": ["dims=7", "dims=-1", "y=0"],
    "resize": ["out_h=0", "mode=4", "mode=-1", "step_h=-1", "x.data=0", "out.pixel=0", "channels=0"],
    "softmax": ["rows=0", "length=0", "x=0", "y=0", "y_row=7", "x_row=-1"],
    "attention": [
        "images=0",
        "windows=16777216",
        "heads=0",
        "rows=-1",
        "columns=0",
        "depth=0",
        "values=0",
        "q.data=0",
        "k.row=-8",
        "v.image=-1",
        "out.data=0",
        "out.row=7",
        "out.head=7",
        "out.window=0",
    ],
}


@pytest.mark.parametrize("kind", WRONG)
def test_the_library_refuses_what_it_cannot_read(kind: str) -> None:
    assert run((kind, arguments()[kind])) == (0, -1)
    for change in WRONG[kind]:
        step = arguments()[kind]
        path, _, value = change.partition("=")
        *outer, field = path.split(".")
        target: Any = step
        for part in outer:
            target = getattr(target, part)
        setattr(target, field, None if value == "None" else int(value))
        assert run((kind, step)) == (1, 0), change
    nothing = (structs.Step * 1)(structs.Step(structs.STEPS[kind]))
    assert load().bz_run(0, 1, 1, ctypes.addressof(nothing), None) == 1  # type: ignore[union-attr]


def test_the_library_refuses_instructions_that_it_cannot_follow() -> None:
    for change in ("op=29", "op=-1", "to=16", "a=2", "b=2", "a=-1", "b=16"):
        step = arguments()["pointwise"]
        field, _, value = change.partition("=")
        setattr(step.instruction[0], field, int(value))
        assert run(("pointwise", step)) == (1, 0), change
    for field, value in (("source", 3), ("source", -1), ("source", 16)):
        step = arguments()["pointwise"]
        setattr(step.result[0], field, value)
        assert run(("pointwise", step)) == (1, 0)
    for field, value in (("data", None), ("pixel", -8), ("channel", 2)):
        step = arguments()["pointwise"]
        setattr(step.operand[1], field, value)
        assert run(("pointwise", step)) == (1, 0)
    step = arguments()["copy"]
    for field in ("size", "to", "from_"):
        step = arguments()["copy"]
        getattr(step, field)[1] = -1
        assert run(("copy", step)) == (1, 0)


def test_the_library_refuses_a_program_that_it_cannot_run() -> None:
    lib = load()
    assert lib is not None
    step = (structs.Step * 1)(structs.Step(99))
    assert lib.bz_run(0, 1, 1, ctypes.addressof(step), None) == 1
    assert lib.bz_run(0, 0, 0, None, None) == 1
    assert lib.bz_run(0, 1, -1, None, None) == 1
    assert lib.bz_run(0, 1, 1, None, None) == 1
    assert lib.bz_run(9, 1, 0, None, None) == 4
    assert lib.bz_layer_scratch(None) == -1


def test_the_number_of_threads_does_not_matter() -> None:
    """Maps that are large enough for several threads."""
    torch.manual_seed(0)
    x = last(torch.randn(2, 48, 60, 50))
    weight = torch.randn(100, 48)
    results: list[list[Tensor]] = []
    for threads in (1, 2, 3):
        out, sums = [blank(2, 48, 60, 50) for _ in range(3)], [torch.empty(2, 48) for _ in range(5)]
        y, soft, turned = torch.empty(6000, 100), torch.empty(6000, 48), torch.empty(2, 48, 60, 50)
        steps = [
            (
                "pointwise",
                pointwise((2, 48, 60, 50), [map_of(x)], [instruction("gelu", 1, 0)], [(1, out[0], sums[0])]),
            ),
            (
                "layer_norm",
                structs.LayerNormStep(
                    2, 60, 50, 48, map_of(x), map_of(out[1]), None, None, 1e-5, address(sums[1])
                ),
            ),
            (
                "pool",
                structs.PoolStep(
                    2,
                    48,
                    60,
                    50,
                    structs.Pool(3, 3, 1, 1, 1, 1, 60, 50),
                    1,
                    0,
                    0,
                    0,
                    map_of(x),
                    map_of(out[2]),
                    address(sums[2]),
                ),
            ),
            ("mean", structs.MeanStep(2, 60, 50, 48, map_of(x), None, address(sums[3]))),
            (
                "linear",
                structs.LinearStep(
                    6000, 48, 100, 28, address(x), 48, address(weight), 48, None, None, 0, 0, address(y), 100
                ),
            ),
            ("copy", copy_step(x, turned)),
            ("softmax", structs.SoftmaxStep(6000, 48, 1.0, address(x), 48, address(soft), 48)),
        ]
        assert run(*steps, threads=threads) == (0, -1)
        sums[4] = sums[3]
        results.append([*out, *sums, y, soft, turned])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


def test_instruction_sets_agree() -> None:
    """Where nothing is a chain of fused multiply-adds, to the bit."""
    x = values()
    for op in [*ONE, *NUMBERS]:
        name, p, q = op if isinstance(op, tuple) else (op, 0.0, 0.0)
        made = [one_map(x, [instruction(name, 1, 0, p=p, q=q)], 1, isa) for isa in ISAS]
        for other in made[1:]:
            torch.testing.assert_close(other, made[0], rtol=0, atol=0, equal_nan=True)
