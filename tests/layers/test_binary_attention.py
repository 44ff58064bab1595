"""Binary attention against formulas with autograd and stop-gradients, and against torch's attention."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binarize.layers import AttentionShapes, BinaryAttention, BinaryProduct
from binarize.methods.bit import ElasticSign, elastic_attention

N, HEADS, L, S, D, E = 2, 3, 5, 7, 4, 6
SHAPES = AttentionShapes(query=(HEADS, 1, D), key=(HEADS, D, 1), value=(HEADS, 1, E))


def tensors(*, heads_of_keys: int = HEADS) -> tuple[Tensor, Tensor, Tensor]:
    shapes = (N, HEADS, L, D), (N, heads_of_keys, S, D), (N, heads_of_keys, S, E)
    query, key, value = (torch.randn(shape, dtype=torch.double).requires_grad_() for shape in shapes)
    return query, key, value


def attention(shapes: AttentionShapes = SHAPES) -> BinaryAttention:
    made = BinaryAttention(elastic_attention(), shapes).double()
    with torch.no_grad():
        for quantizer in quantizers(made):
            quantizer.alpha.fill_(0.7)
            quantizer.move.normal_(0, 0.1)
        made.context.left.alpha.fill_(0.3)
        made.context.left.move.fill_(0.01)
    return made.eval()


def quantizers(made: BinaryAttention) -> list[Any]:
    return [made.scores.left, made.scores.right, made.context.left, made.context.right]


def scaled(alpha: Tensor, x: Tensor) -> Tensor:
    """`alpha` whose gradient is 1 / sqrt(size of x) of what it would be."""
    return alpha.detach() + (alpha - alpha.detach()) / math.sqrt(x.numel())


def signed(x: Tensor, alpha: Tensor, move: Tensor) -> Tensor:
    """alpha sign(z), straight through where abs(z) <= alpha."""
    z = x + move
    clipped = torch.minimum(torch.maximum(z, -alpha.detach()), alpha.detach())
    return scaled(alpha, x) * torch.where(z >= 0, 1.0, -1.0) + clipped - clipped.detach()


def unsigned(x: Tensor, alpha: Tensor, move: Tensor) -> Tensor:
    """Alpha where z >= alpha / 2: alpha round(clamp(z / alpha, 0, 1)), straight through the rounding."""
    z = x + move
    a = scaled(alpha, x)
    part = torch.clamp(z.detach() / a, 0, 1)
    rounded = (z.detach() / alpha.detach() >= 0.5).to(x.dtype)
    through = z * ((z >= 0) & (z <= alpha)).to(x.dtype)
    return a * (rounded + part - part.detach()) + (through - through.detach())


def reference(
    made: BinaryAttention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float
) -> Tensor:
    query, key, rows, value = quantizers(made)
    q = signed(q, query.alpha, query.move)
    k = signed(k, key.alpha, key.move.transpose(-2, -1))
    v = signed(v, value.alpha, value.move)
    scores = scale * torch.einsum("nhld,nhsd->nhls", q, k)
    if mask is not None:
        scores = scores + mask
    weights = torch.exp(scores - scores.amax(-1, keepdim=True))
    weights = weights / weights.sum(-1, keepdim=True)
    return torch.einsum("nhls,nhse->nhle", unsigned(weights, rows.alpha, rows.move), v)


@pytest.mark.parametrize("scale", [None, 0.9])
@pytest.mark.parametrize("masked", [False, True])
def test_forward_and_gradients_are_those_of_the_formula(scale: float | None, masked: bool) -> None:
    torch.manual_seed(3)
    made, given = attention(), tensors()
    mask = torch.randn(HEADS, L, S, dtype=torch.double).requires_grad_() if masked else None
    ours = made(*given, attn_mask=mask, scale=scale)
    theirs = reference(made, *given, mask, 1 / math.sqrt(D) if scale is None else scale)
    torch.testing.assert_close(ours, theirs)
    assert ours.shape == (N, HEADS, L, E)
    wanted = [*given, *made.parameters(), *([mask] if mask is not None else [])]
    grad = torch.randn_like(ours)
    ours_grads = torch.autograd.grad(ours, wanted, grad)
    theirs_grads = torch.autograd.grad(theirs, wanted, grad)
    for a, b in zip(ours_grads, theirs_grads, strict=True):
        torch.testing.assert_close(a, b)
        assert a.abs().sum() > 0


def test_the_factors_of_both_products_have_two_values() -> None:
    made, given = attention(), tensors()
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    for name in ("scores", "context"):
        product: Any = getattr(made, name)
        factors = [product.left, product.right]
        for side, quantizer in enumerate(factors):
            quantizer.register_forward_hook(
                lambda module, args, out, key=f"{name} {side}": seen.update({key: (out, module.alpha)})
            )
    made(*given)
    assert len(seen) == 4
    for name, (values, alpha) in seen.items():
        lower = 0.0 if name == "context 0" else -alpha.item()
        assert set(values.unique().tolist()) == {lower, alpha.item()}, name


def test_scales_start_from_the_first_batch_in_training_only() -> None:
    made, (query, key, value) = BinaryAttention(elastic_attention(), SHAPES).double(), tensors()
    made.eval()(query, key, value)
    assert all(q.alpha.item() == 1 for q in quantizers(made))
    made.train()(query, key, value)
    means = [2 * x.detach().abs().mean().item() for x in (query, key, value)]
    found = [quantizer.alpha.item() for quantizer in quantizers(made)]
    assert found == pytest.approx([*means[:2], 4 / S, means[2]], rel=1e-6)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    made(3 * query, key, value)
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())


def without_quantizers() -> BinaryAttention:
    made = BinaryAttention(elastic_attention(), AttentionShapes())
    for product in (made.scores, made.context):
        product.left = product.right = nn.Identity()
    return made


BOOL = torch.rand(N, 1, L, S, generator=torch.Generator().manual_seed(0)) > 0.4
BOOL[0, 0, 2] = False  # a query that sees no key
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "scale": {"scale": 0.3},
    "bool mask": {"attn_mask": BOOL},
    "float mask": {"attn_mask": torch.randn(L, S, dtype=torch.double)},
    "mask of -inf": {"attn_mask": torch.zeros(BOOL.shape, dtype=torch.double).masked_fill(~BOOL, -math.inf)},
    "causal": {"is_causal": True},
    "shared keys": {"enable_gqa": True},
}


@pytest.mark.parametrize("case", list(CASES))
def test_without_quantizers_it_is_torchs_attention(case: str) -> None:
    given = tensors(heads_of_keys=1 if case == "shared keys" else HEADS)
    expected = F.scaled_dot_product_attention(*given, **CASES[case])
    torch.testing.assert_close(without_quantizers()(*given, **CASES[case]), expected)


def test_masked_rows_have_finite_gradients() -> None:
    made, given = attention(), tensors()
    made(*given, attn_mask=BOOL).square().sum().backward()
    assert all(torch.isfinite(x.grad).all() for x in given if x.grad is not None)
    assert (made(*given, attn_mask=BOOL)[0, :, 2] == 0).all()


def test_dropout_leaves_weights_out() -> None:
    torch.manual_seed(0)
    made, given = without_quantizers(), tensors()
    dropped = made(*given, dropout_p=0.5)
    assert not torch.allclose(dropped, made(*given))
    assert (made(*given, dropout_p=1.0) == 0).all()


def test_rows_may_be_the_second_factor() -> None:
    made = BinaryAttention(elastic_attention(), AttentionShapes(value=(HEADS, E, 1), rows_right=True))
    assert isinstance(made.context, BinaryProduct)
    assert isinstance(made.context.right, ElasticSign)
    assert made.context.right.rule.unsigned
    assert not made.context.left.rule.unsigned  # type: ignore[union-attr]
    assert made.context.left.move.shape == (HEADS, E, 1)


def test_shifts_move_single_channels() -> None:
    made, (query, key, _) = attention(), tensors()
    with torch.no_grad():
        for quantizer in quantizers(made)[:2]:
            quantizer.move.zero_()
    before = made.scores(query, key.transpose(-2, -1))
    with torch.no_grad():
        made.scores.left.move[1, 0, 2] = 100.0  # head 1, channel 2: always +1
    after = made.scores(query, key.transpose(-2, -1))
    assert torch.equal(before[:, [0, 2]], after[:, [0, 2]])
    flipped = (query[:, 1, :, 2] < 0)[..., None]
    change = 2 * made.scores.left.alpha * made.scores.right(key.transpose(-2, -1))[:, 1, None, 2]
    torch.testing.assert_close(after[:, 1], before[:, 1] + torch.where(flipped, change, 0))
