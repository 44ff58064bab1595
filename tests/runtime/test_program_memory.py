"""Where a program's values lie: strides, addresses and memory that results share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from program_nets import Net, pair, plain, programs, same, third
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from binarize.native.library import available

pytestmark = pytest.mark.skipif(not available(), reason="the native kernels are not built")
IMAGE = (2, 3, 16, 16)


@torch.library.custom_op("binarize_tests::rows_in_memory", mutates_args=())
def rows_in_memory(x: Tensor) -> Tensor:
    """As other packages' kernels read memory: in its order."""
    return torch.as_strided(x, (x.numel(),), (1,)).clone()


@rows_in_memory.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(x.numel())


def _contiguous_as_strided(y: Tensor) -> Tensor:
    return y.contiguous().as_strided((2, 4), (9, 2), 3)


def _part_as_strided(y: Tensor) -> Tensor:
    return y.contiguous()[1:].as_strided((3, 4), (9, 2))


def _around_as_strided(y: Tensor) -> Tensor:
    return y.contiguous()[:, :2].as_strided((2, 5, 8), (320, 64, 1))


def _as_strided_in_place(y: Tensor) -> Tensor:
    return y.clone(memory_format=torch.contiguous_format).as_strided_((2, 4), (9, 2))


def _complex(y: Tensor) -> Tensor:
    y = y.permute(0, 2, 3, 1)[..., :4].contiguous().view(2, -1, 2)
    return torch.view_as_real(torch.view_as_complex(y) * (1 + 2j))


def _complex_of_maps(y: Tensor) -> Tensor:
    y = y.contiguous().unflatten(3, (4, 2))
    return torch.view_as_real(torch.view_as_complex(y).sum(1))


def _other_dtype(y: Tensor) -> Tensor:
    return y.contiguous().view(torch.int32) // 2**20


def _alias(y: Tensor) -> Tensor:
    return torch.ops.aten._reshape_alias(y.contiguous(), (2, 40, 8), (320, 8, 1)).cumsum(1)


def _foreign(y: Tensor) -> Tensor:
    return rows_in_memory(y.contiguous())


def _bool_view(y: Tensor) -> Tensor:
    return (y > 0).contiguous().view(2, -1)


def _int_flatten(y: Tensor) -> Tensor:
    return (y * 100).long().contiguous().flatten(1).unflatten(1, (8, 40))


def _double(y: Tensor) -> Tensor:
    return y.double().contiguous().view(2, 40, 8).cumsum(1).float()


STRIDED = [_contiguous_as_strided, _part_as_strided, _as_strided_in_place, _complex, _complex_of_maps,
           _other_dtype, _alias, _foreign, _bool_view, _int_flatten, _double]  # fmt: skip


def _all(y: Tensor) -> list[Tensor]:
    return [forward(y) for forward in STRIDED]


def _packed(forward: Any) -> Any:
    return pair(Net(forward), example_inputs=torch.rand(IMAGE))[1]


def _check(packed: Any, *inputs: Any) -> None:
    """Whether the third call gives what the modules give."""
    with torch.no_grad():
        expected = packed._call_impl(*inputs)
    pairs = zip(tree_leaves(third(packed, *inputs)), tree_leaves(expected), strict=True)
    off = [i for i, (a, b) in enumerate(pairs) if a.dtype != b.dtype or not same(a.double(), b.double())]
    assert not off


def test_operators_that_look_at_strides_see_those_of_the_modules() -> None:
    packed = _packed(lambda net, x: _all(plain(net, x)))
    _check(packed, torch.rand(IMAGE))
    assert len(programs(packed)) == 1
    errors = packed.binarize_programs.compared(torch.rand(IMAGE))
    assert max(e.worst for e in errors) < 1e-3


def test_memory_around_a_tensor_is_not_read() -> None:
    packed = _packed(lambda net, x: _around_as_strided(plain(net, x)))
    _check(packed, torch.rand(IMAGE))
    assert not programs(packed)
    assert "around its argument" in packed.binarize_programs.reasons()[0]


class Normed(nn.Module):
    """Tokens through two binary layers, with norms, activations and weights that are inputs or computed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, padding=1)
        self.a = nn.Linear(24, 24)
        self.b = nn.Linear(24, 24)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor, w: Tensor, k: Tensor) -> Any:
        own = w * 2 - 0.3
        maps = F.max_pool2d(F.batch_norm(self.stem(x), w, own**2 + 1, own, w).relu(), 2)
        foreign = F.max_pool2d(F.conv2d(x, k, w, padding=1).relu(), 2)
        tall = F.max_pool2d(F.conv2d(x, k.flip(0).mT, own).relu(), 2)
        y = F.layer_norm(self.b(self.a(maps.flatten(2).mT)), (24,), w, own)
        y = F.layer_norm(y, (24,), own)
        maps = F.prelu(maps, own) * own[:, None, None] + w[:, None, None]
        return self.head(y), F.linear(y[:, 0], own[None]), maps, foreign, tall


def test_vectors_that_are_inputs_or_computed_are_read_at_each_call() -> None:
    def given() -> tuple[Tensor, ...]:
        return torch.rand(IMAGE), torch.randn(24), torch.randn(24, 3, 3, 3)

    packed = pair(Normed(), example_inputs=given())[1]
    for _ in range(2):
        _check(packed, *given())
    assert len(programs(packed)) == 1


class Windows(nn.Module):
    """Binary linear layers on windows of maps: tokens of five dims, whose rows are not evenly spaced."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 1)
        self.a = nn.Linear(24, 24)
        self.b = nn.Linear(24, 24)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).unflatten(3, (4, 4)).unflatten(2, (4, 4)).permute(0, 2, 4, 3, 5, 1)
        return self.head(self.b(self.a(y)) + y)


def test_tokens_of_many_dims_are_read_at_each_call() -> None:
    packed = pair(Windows(), example_inputs=torch.rand(IMAGE))[1]
    for _ in range(2):
        _check(packed, torch.rand(IMAGE))
    assert len(programs(packed)) == 1


def test_constants_with_other_strides_are_read_in_their_order() -> None:
    net = Net(lambda net, x: net.head(net.b(net.a(F.max_pool2d(net.norm(net.stem(x)).relu(), 2)))))
    packed = pair(net, example_inputs=torch.rand(IMAGE))[1]
    packed.stem.to(memory_format=torch.channels_last)
    packed.norm.weight.data = torch.rand(80)[::2]
    x = torch.rand(IMAGE)
    _check(packed, x)
    with torch.no_grad():
        packed.stem.weight.data[:] = torch.randn(40, 3, 3, 3)  # past torch: it is read at each call
        assert same(packed(x), packed._call_impl(x))
    assert programs(packed)
