"""Where a program's values lie: strides, addresses and memory that results share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from program_nets import Net, pair, plain, programs, same, third
from torch import Tensor
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
