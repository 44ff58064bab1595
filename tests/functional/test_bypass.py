"""Properties of the channel bypass."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from binarize.errors import ConfigError
from binarize.functional.bypass import bypass_kind, channel_bypass, merge_groups

FLOATS = (torch.half, torch.bfloat16, torch.float, torch.double)
PAIRS = [(4, 4), (4, 8), (4, 7), (4, 5), (7, 3), (8, 5), (5, 1), (1, 3), (6, 2)]
WIDTHS = st.integers(1, 200)
QUICK = settings(deadline=None, max_examples=60)


def matrix(cin: int, cout: int) -> Tensor:
    """(Cout, Cin): the bypass written down channel by channel, from input to output."""
    result = torch.zeros(cout, cin, dtype=torch.double)
    tiled = cout // cin * cin
    rows = torch.arange(tiled)
    result[rows, rows % cin] = 1
    m = cout - tiled
    if m:
        channels = torch.arange(cin)
        strided = channels < cin // m * (m - 1)
        group = torch.where(strided, channels % max(m - 1, 1), m - 1)
        result[tiled + group, channels] = 1.0 / torch.bincount(group, minlength=m).double()[group]
    return result


@st.composite
def placed(draw: st.DrawFn) -> tuple[tuple[int, ...], int, int]:
    """(shape of x, dim of its channels, output channels); any rank, dims counted from either end."""
    rank = draw(st.integers(1, 5))
    dim = draw(st.integers(-rank, rank - 1))
    shape = draw(st.lists(st.integers(1, 4), min_size=rank, max_size=rank))
    shape[dim] = draw(st.integers(1, 24))
    return tuple(shape), dim, draw(st.integers(1, 60))


class Wrapped(nn.Module):
    """The bypass as a model has it."""

    def __init__(self, out_channels: int, dim: int = 1) -> None:
        super().__init__()
        self.out_channels, self.dim = out_channels, dim

    def forward(self, x: Tensor) -> Tensor:
        return channel_bypass(x, self.out_channels, self.dim)


@QUICK
@given(placed(), st.sampled_from(FLOATS))
def test_any_rank_dim_and_dtype(case: tuple[tuple[int, ...], int, int], dtype: torch.dtype) -> None:
    shape, dim, cout = case
    x = torch.randn(shape).to(dtype)
    y = channel_bypass(x, cout, dim)
    expected = list(shape)
    expected[dim] = cout
    assert list(y.shape) == expected
    assert y.dtype == dtype
    assert y.isfinite().all()
    last = torch.tensordot(x.double().movedim(dim, -1), matrix(shape[dim], cout), ([-1], [1]))
    tolerance = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(y.double(), last.movedim(-1, dim), rtol=tolerance, atol=tolerance)


def test_all_pairs_agree_with_the_matrix() -> None:
    for cin in range(1, 65):
        basis = torch.eye(cin, dtype=torch.double)
        for cout in range(1, 65):
            expected = matrix(cin, cout)
            assert torch.equal(channel_bypass(basis, cout, 0), expected), (cin, cout)
            assert torch.equal(channel_bypass(basis, cout, 1), expected.T), (cin, cout)


@QUICK
@given(WIDTHS, st.data())
def test_merged_groups_partition_the_channels(cin: int, data: st.DataObject) -> None:
    merged = data.draw(st.integers(1, cin))
    groups = merge_groups(cin, merged)
    assert len(groups) == merged
    assert all(len(group) >= cin // merged for group in groups)
    assert sorted(channel for group in groups for channel in group) == list(range(cin))


@QUICK
@given(WIDTHS, WIDTHS)
def test_every_channel_enters(cin: int, cout: int) -> None:
    x = torch.zeros(cin, dtype=torch.double, requires_grad=True)
    channel_bypass(x, cout, 0).sum().backward()
    assert (x.grad > 0).all()


@QUICK
@given(WIDTHS, st.data())
def test_group_sizes_times_means_give_the_channel_sum(cin: int, data: st.DataObject) -> None:
    merged = data.draw(st.integers(1, cin))
    x = torch.randn(3, cin, 2, dtype=torch.double)
    sizes = torch.tensor([float(len(group)) for group in merge_groups(cin, merged)], dtype=torch.double)
    means = channel_bypass(x, merged)
    torch.testing.assert_close((means * sizes[:, None]).sum(1), x.sum(1), rtol=1e-12, atol=1e-12)


@QUICK
@given(WIDTHS, WIDTHS)
def test_constant_stays_constant(cin: int, cout: int) -> None:
    y = channel_bypass(torch.full((2, cin), 3.0, dtype=torch.double), cout)
    torch.testing.assert_close(y, torch.full_like(y, 3.0), rtol=1e-14, atol=0.0)


@QUICK
@given(WIDTHS, WIDTHS, st.floats(-10, 10))
def test_linear(cin: int, cout: int, factor: float) -> None:
    u, v = torch.randn(2, 3, cin, 2, dtype=torch.double)
    torch.testing.assert_close(
        channel_bypass(u + factor * v, cout),
        channel_bypass(u, cout) + factor * channel_bypass(v, cout),
        rtol=1e-12,
        atol=1e-12 * max(1.0, abs(factor)),
    )


@QUICK
@given(WIDTHS, WIDTHS, st.booleans())
def test_gradient_is_the_transpose(cin: int, cout: int, last: bool) -> None:
    x = torch.randn(*((3, cin) if last else (cin, 3)), dtype=torch.double, requires_grad=True)
    y = channel_bypass(x, cout, 1 if last else 0)
    gy = torch.randn_like(y)
    y.backward(gy)
    expected = gy @ matrix(cin, cout) if last else matrix(cin, cout).T @ gy
    torch.testing.assert_close(x.grad, expected, rtol=1e-12, atol=1e-12)


def test_second_derivatives_exist() -> None:
    x = torch.randn(2, 5, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: channel_bypass(x, 8), (x,))


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_identity_returns_its_argument(dim: int) -> None:
    x = torch.randn(3, 3, 3)
    assert channel_bypass(x, 3, dim) is x


@pytest.mark.parametrize(
    ("cin", "cout", "kind"),
    [
        *((4, 4, "identity"), (1, 1, "identity"), (4, 8, "up"), (1, 3, "up"), (96, 384, "up")),
        *((4, 7, "mixed"), (2, 3, "mixed"), (96, 128, "mixed")),
        *((8, 5, "down"), (5, 1, "down"), (384, 96, "down")),
    ],
)
def test_kind(cin: int, cout: int, kind: str) -> None:
    assert bypass_kind(cin, cout) == kind


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
@pytest.mark.parametrize("dim", [0, 1])
def test_half_precision_means_are_accumulated_in_float(dtype: torch.dtype, dim: int) -> None:
    big = torch.full((64, 64), 60000.0).to(dtype)  # the sum of two overflows half precision
    assert torch.equal(channel_bypass(big, 3, dim), big.narrow(dim, 0, 3))
    x = torch.ones(4096, dtype=dtype)  # counting in either dtype stops at 2048 or 256
    assert channel_bypass(x, 1, 0).item() == 1.0


@pytest.mark.parametrize(("cin", "cout"), PAIRS)
@pytest.mark.parametrize(
    "size", [(2, 3, 4), (1, 3, 4), (2, 1, 4), (1, 5, 1), (2, 1, 1), (2, 2, 3, 4), (1, 2, 3, 4)]
)
def test_memory_format_is_kept(cin: int, cout: int, size: tuple[int, ...]) -> None:
    batch, *space = size
    layout = torch.channels_last if len(space) == 2 else torch.channels_last_3d
    x = torch.randn(batch, *space, cin).movedim(-1, 1).requires_grad_()
    assert x.is_contiguous(memory_format=layout)
    y = channel_bypass(x, cout)
    assert y.is_contiguous(memory_format=layout)
    (gx,) = torch.autograd.grad(y.square().sum(), x)

    plain = torch.empty(x.shape).copy_(x.detach()).requires_grad_()
    z = channel_bypass(plain, cout)
    assert z.is_contiguous()
    torch.testing.assert_close(y, z)
    torch.testing.assert_close(gx, torch.autograd.grad(z.square().sum(), plain)[0])


def test_strided_views_and_empty_batches() -> None:
    x = torch.randn(2, 6, 8, 8)
    assert torch.equal(channel_bypass(x[:, ::2, 1::3], 5), channel_bypass(x[:, ::2, 1::3].contiguous(), 5))
    spread = x[:, :, :1, :1].expand(2, 6, 8, 8)
    assert torch.equal(channel_bypass(spread, 4), channel_bypass(spread.contiguous(), 4))
    assert channel_bypass(torch.empty(0, 6, 4, 4), 10).shape == (0, 10, 4, 4)


def test_vmap() -> None:
    x = torch.randn(5, 6, 4)
    assert torch.equal(torch.vmap(lambda row: channel_bypass(row, 9, 0))(x), channel_bypass(x, 9))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("cin", "cout"), [(4, 7), (7, 3), (4, 8)])
def test_export_with_sizes_left_open(cin: int, cout: int, layout: torch.memory_format) -> None:
    free = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    x = torch.randn(2, cin, 5, 6).to(memory_format=layout)
    exported = torch.export.export(Wrapped(cout), (x,), dynamic_shapes=(free,))
    assert all(math.isinf(float(bound.upper)) for bound in exported.range_constraints.values())
    module = exported.module()
    for size in ((2, cin, 5, 6), (3, cin, 9, 4), (1, cin, 7, 2)):
        z = torch.randn(size).to(memory_format=layout)
        assert torch.equal(module(z), channel_bypass(z, cout))


def test_export_of_tokens_with_length_left_open() -> None:
    x = torch.randn(2, 5, 6)
    exported = torch.export.export(Wrapped(4, -1), (x,), dynamic_shapes=({1: torch.export.Dim.DYNAMIC},))
    z = torch.randn(2, 11, 6)
    assert torch.equal(exported.module()(z), channel_bypass(z, 4, -1))


@pytest.mark.slow
def test_compile_without_graph_breaks() -> None:
    compiled = torch.compile(channel_bypass, backend="aot_eager", fullgraph=True)
    for cin, cout in ((4, 7), (7, 3), (4, 4)):
        x = torch.randn(2, cin, 3, 4).to(memory_format=torch.channels_last)
        y = compiled(x, cout)
        assert torch.equal(y, channel_bypass(x, cout))
        assert y.is_contiguous(memory_format=torch.channels_last)


def test_fx_records_one_call() -> None:
    class Plain(nn.Module):  # torch 2.9 pickles no graph of a forward whose annotations are texts
        def forward(self, x):
            return channel_bypass(x, 7)

    traced = torch.fx.symbolic_trace(Plain())
    calls = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    assert calls == [channel_bypass]
    x = torch.randn(2, 4, 3, 3)
    assert torch.equal(pickle.loads(pickle.dumps(traced))(x), channel_bypass(x, 7))


@pytest.mark.parametrize(
    ("x", "out_channels", "dim", "match"),
    [
        (torch.ones(2, 3, dtype=torch.long), 5, 1, r"torch\.int64; expected a floating-point"),
        (torch.ones(2, 3, dtype=torch.cfloat), 5, 1, r"torch\.complex64; expected a floating-point"),
        (torch.ones(2, 3), 0, 1, r"out_channels=0; expected at least 1"),
        (torch.ones(2, 0), 3, 1, r"in_channels=0; expected at least 1"),
        (torch.ones(2, 3), 5, 2, r"dim=2 for x of shape \(2, 3\)"),
        (torch.ones(2, 3), 5, -3, r"dim=-3 for x of shape \(2, 3\)"),
        (torch.ones(()), 5, 0, r"dim=0 for x of shape \(\)"),
    ],
)
def test_refuses(x: Tensor, out_channels: int, dim: int, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        channel_bypass(x, out_channels, dim)


def test_numbers_refuse() -> None:
    with pytest.raises(ConfigError, match=r"merge_groups: merged=4 exceeds in_channels=3"):
        merge_groups(3, 4)
    with pytest.raises(ConfigError, match=r"merge_groups: merged=0; expected at least 1"):
        merge_groups(3, 0)
    with pytest.raises(ConfigError, match=r"bypass_kind: in_channels=0; expected at least 1"):
        bypass_kind(0, 3)
