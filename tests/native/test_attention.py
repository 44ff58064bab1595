"""Attention steps against torch, on every instruction set."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from native.steps import ISAS, must, run
from torch import Tensor

from binarize import native
from binarize.native import structs

pytestmark = pytest.mark.skipif(not native.available(), reason="the native kernels are not built")
INF, NAN = float("inf"), float("nan")


def heads_of(x: Tensor | None) -> structs.Heads:
    """Of (images, windows, heads, rows, floats)."""
    if x is None:
        return structs.Heads()
    assert x.stride(4) == 1 or x.shape[4] == 1
    return structs.Heads(x.data_ptr(), *x.stride()[:4])


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    bias: tuple[Tensor | None, Tensor | None] = (None, None),
    **options: Any,
) -> structs.AttentionStep:
    """Biases broadcast to the scores."""
    scores = (*q.shape[:4], k.shape[3])
    step = structs.AttentionStep(*q.shape[:4], k.shape[3], q.shape[4], v.shape[4], **options)
    step.q, step.k, step.v, step.out = (heads_of(x) for x in (q, k, v, out))
    wide = [None if b is None else b.expand(scores) for b in bias]
    step.bias = (structs.Heads * 2)(*(heads_of(b) for b in wide))
    step.held = (q, k, v, out, bias)  # type: ignore[attr-defined]
    return step


def expected(q: Tensor, k: Tensor, v: Tensor, bias: tuple[Tensor | None, ...], factor: float) -> Tensor:
    """In double."""
    scores = q.double() @ k.double().transpose(-2, -1) * factor
    for b in bias:
        scores = scores if b is None else scores + b.double()
    return scores.softmax(-1) @ v.double()


def tokens(parts: int, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Parts (images, windows, heads, rows, floats) as views of one tensor."""
    n, w, h, rows, floats = shape
    return torch.randn(n, w, rows, parts, h, floats).permute(3, 0, 1, 4, 2, 5).unbind(0)


def result(shape: tuple[int, ...], extra: int = 3) -> Tensor:
    """Memory of NaN for (images, windows, heads, rows, floats), as slices of wider rows of all heads."""
    n, w, h, rows, floats = shape
    return torch.full((n, w, rows, h, floats + extra), NAN)[..., :floats].transpose(2, 3)


@pytest.mark.parametrize("isa", ISAS)
def test_weights_below_all_normal_numbers_are_zero(isa: str) -> None:
    """As if they were masked: processors take long for such numbers."""
    q, k, v = tokens(3, (1, 2, 3, 49, 32))
    hidden = torch.rand(1, 2, 1, 49, 49) < 0.5
    hidden.diagonal(dim1=-2, dim2=-1).fill_(False)
    found = []
    for value in (-98.0, -INF):  # e^-98 is 3e-43
        out, bias = result((1, 2, 3, 49, 32)), torch.zeros(hidden.shape).masked_fill(hidden, value)
        must("attention", attention(q, k, v, out, (bias, None), factor=1e-3), isa)
        torch.testing.assert_close(out, expected(q, k, v, (bias,), 1e-3).float())
        found.append(out)
    assert torch.equal(*found)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("length", [1, 7, 49, 197])
@pytest.mark.parametrize("floats", [1, 7, 32, 64, 80])
def test_attention(isa: str, length: int, floats: int) -> None:
    torch.manual_seed(length * 100 + floats)
    shape = (2, 2, 3, length, floats)
    q, k, v = tokens(3, shape)
    out = result(shape)
    must("attention", attention(q, k, v, out, factor=floats**-0.5), isa)
    torch.testing.assert_close(out.double(), expected(q, k, v, (), floats**-0.5), rtol=1e-5, atol=1e-6)
    assert out._base is not None
    assert out._base[..., floats:].isnan().all()


@pytest.mark.parametrize("isa", ISAS)
def test_numbers_of_queries_keys_and_floats_are_independent(isa: str) -> None:
    torch.manual_seed(0)
    for rows, columns, depth, values in ((1, 50, 16, 24), (50, 1, 3, 5), (25, 33, 20, 100), (197, 15, 8, 1)):
        q, k = torch.randn(1, 1, 2, rows, depth), torch.randn(1, 1, 2, columns, depth)
        v, out = torch.randn(1, 1, 2, columns, values), result((1, 1, 2, rows, values))
        must("attention", attention(q, k, v, out, factor=0.7), isa, threads=2)
        torch.testing.assert_close(out.double(), expected(q, k, v, (), 0.7), rtol=1e-5, atol=1e-5)


BIASES = {
    "none": (None, None),
    "of heads": ((1, 1, 3, 20, 37), None),
    "of windows": ((1, 4, 1, 20, 37), None),
    "both": ((1, 1, 3, 20, 37), (1, 4, 1, 20, 37)),
    "second alone": (None, (2, 4, 3, 20, 37)),
    "of keys": ((2, 1, 1, 1, 37), None),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", BIASES)
def test_biases(isa: str, kind: str) -> None:
    torch.manual_seed(3)
    q, k = torch.randn(2, 4, 3, 20, 8), torch.randn(2, 4, 3, 37, 8)
    v, out = torch.randn(2, 4, 3, 37, 8), result((2, 4, 3, 20, 8))
    first, second = (None if s is None else torch.randn(s) * 3 for s in BIASES[kind])
    for b in (first, second):
        if b is not None:
            b[b > 3] = -INF
    must("attention", attention(q, k, v, out, (first, second), factor=0.3), isa)
    torch.testing.assert_close(out.double(), expected(q, k, v, (first, second), 0.3), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
def test_masks_infinities_and_nan_as_in_torch(isa: str) -> None:
    torch.manual_seed(4)
    q, k, v = (torch.randn(1, 1, 6, 9, 16) for _ in range(3))
    mask = torch.zeros(1, 1, 6, 9, 9)
    mask[:, :, 0, 3], mask[:, :, 0, 4, :8] = -INF, -INF
    q[:, :, 1, 2, 0], k[:, :, 2, 5, 1], k[:, :, 3, 5, 1] = NAN, NAN, INF
    v[:, :, 4, 7, 3], v[:, :, 5, 7, 3] = NAN, INF
    mask[:, :, 4:, :, 7] = -INF
    plain = (q @ k.transpose(-2, -1) * 0.5 + mask).softmax(-1)
    for zero in (False, True):
        out = result((1, 1, 6, 9, 16))
        must("attention", attention(q, k, v, out, (mask, None), factor=0.5, masked_is_zero=int(zero)), isa)
        weights = plain.clone()
        if zero:
            weights[0, 0, 0, 3] = 0
        assert out[0, 0, 0, 3].isnan().all() != zero
        torch.testing.assert_close(out, weights @ v, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("length", [49, 300])
def test_neither_threads_nor_other_images_change_a_result(isa: str, length: int) -> None:
    torch.manual_seed(5)
    q, k, v = tokens(3, (3, 2, 1, length, 24))
    bias = torch.randn(1, 2, 1, length, length)
    made = []
    for threads in (1, 2, 3, 8):
        out = result((3, 2, 1, length, 24))
        must("attention", attention(q, k, v, out, (bias, None), factor=0.2), isa, threads)
        made.append(out)
    one = result((1, 2, 1, length, 24))
    must("attention", attention(q[1:2], k[1:2], v[1:2], one, (bias, None), factor=0.2), isa, 2)
    assert torch.equal(one, made[0][1:2])
    for other in made[1:]:
        assert torch.equal(other, made[0])


def test_scratch_has_a_limit() -> None:
    x = torch.randn(1, 1, 1, 1, 1)
    step = attention(x, x, x, x.clone(), factor=1.0)
    step.columns, step.depth = 1 << 20, 1 << 10
    assert run(("attention", step)) == (3, 0)
