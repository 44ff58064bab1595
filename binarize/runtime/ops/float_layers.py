"""Operators of layers that stay float: stem, pointwise convolution or linear layer, mean, attention."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from binarize.runtime.ops.arguments import activation_of_arguments
from binarize.runtime.ops.common import channel_sums, register
from binarize.runtime.pointwise_code import apply


def _linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    op: str,
    p: float,
    q: float,
    *,
    rounded: Tensor | None = None,
) -> Tensor:
    flat = weight.flatten(1)
    if rounded is not None:
        flat = rounded.movedim(1, 2).flatten(0, 1)[: len(weight)].float()
    y = F.linear(x, flat, bias) if weight.dim() == 2 else F.conv2d(x, flat[..., None, None], bias)
    return apply(op, y, p, q)


def _mean(x: Tensor, sums: Tensor | None) -> Tensor:
    if sums is None:
        return x.mean((2, 3), keepdim=True)
    return (sums / (x.shape[2] * x.shape[3]))[..., None, None]


def _stem(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm: list[Tensor | None],
    eps: float,
    activation: list[Tensor | None],
    bounds: list[float],
    stride: list[int],
    padding: list[int],
    pool: list[int],
    *,
    with_sums: bool = False,
    as_bf16: bool = False,
) -> tuple[Tensor, Tensor]:
    y = F.conv2d(x, weight, bias, stride, padding)
    if norm:
        mean, variance, factor, constant = norm
        y = F.batch_norm(y, mean, variance, factor, constant, eps=eps)
    if (second := activation_of_arguments(activation, bounds)) is not None:
        y = second(y)
    if pool:
        y = F.max_pool2d(y, pool[:2], pool[2:4], pool[4:6])
    sums = channel_sums(y) if with_sums else y.new_empty(0)
    return y.bfloat16() if as_bf16 else y, sums


def _attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Sequence[Tensor], factor: float, masked_is_zero: bool
) -> Tensor:
    scores = q @ k.transpose(-2, -1) * factor
    for term in bias:
        scores = scores + term
    weights = scores.softmax(-1)
    if masked_is_zero:
        weights = weights.masked_fill((scores == float("-inf")).all(-1, keepdim=True), 0.0)
    return weights @ v


linear = register(
    "linear(Tensor x, Tensor weight, Tensor? bias, str op, float p, float q, *, Tensor? rounded=None)"
    " -> Tensor",
    _linear,
)
"""op(x weight^T + bias). `rounded`: the weights that are multiplied in place of `weight`, of which only the
shape is used then, as `bz_linear_step.bf16_weights`: (ceil(outputs / 16), inputs, 16) bfloat16.
"""
mean = register(
    "mean(Tensor x, Tensor? sums) -> Tensor",
    _mean,
)
stem = register(
    "stem(Tensor x, Tensor weight, Tensor? bias, Tensor?[] norm, float eps, Tensor?[] activation, "
    "float[] bounds, int[] stride, int[] padding, int[] pool, *, bool with_sums=False, "
    "bool as_bf16=False) -> (Tensor, Tensor)",
    _stem,
)
attention = register(
    "attention(Tensor q, Tensor k, Tensor v, Tensor[] bias, float factor, bool masked_is_zero) -> Tensor",
    _attention,
)
"""softmax(factor q k^T + biases) v: q (..., L, D), k (..., S, D), v (..., S, E) to (..., L, E).

Biases broadcast to (..., L, S); there are at most two. `masked_is_zero`: a row whose scores are all -inf has
the weights 0, as `scaled_dot_product_attention` has it, instead of NaN, as a softmax has it.
"""
