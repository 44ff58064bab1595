"""Attention whose two products are of binary factors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binarize.layers.recipe import AttentionRecipe


class BinaryProduct(nn.Module):
    """The matrix product of two quantized tensors: left(a) @ right(b).

    Args:
        left: quantizer of the first factor.
        right: quantizer of the second factor.
    """

    binarize_role: ClassVar[str] = "matmul"

    def __init__(self, left: nn.Module, right: nn.Module) -> None:
        super().__init__()
        self.left = left
        self.right = right

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """(..., L, D) and (..., D, S) -> (..., L, S)."""
        return torch.matmul(self.left(a), self.right(b))


@dataclass(frozen=True, kw_only=True)
class AttentionShapes:
    """Shapes of what has one value per channel, broadcastable to the factors of the products.

    `()` where the channel axes are unknown: one value for the whole tensor.

    Attributes:
        query: of the first factor of the scores.
        key: of the second one, the transposed keys.
        value: of the values.
        rows_right: the product is values^T @ rows^T, with the rows on the right.
    """

    query: tuple[int, ...] = ()
    key: tuple[int, ...] = ()
    value: tuple[int, ...] = ()
    rows_right: bool = False


class BinaryAttention(nn.Module):
    """Attention from binary queries, keys, softmax rows and values (BiT, arXiv 2205.13016).

    scores = Qb Kb^T, weights = softmax(scale scores + mask), result = rows(weights) Vb: the two products are
    of two-valued factors, softmax is float. Networks that call `scaled_dot_product_attention` call this
    module in its place; those that write the two products out call `scores` and `context`, and keep what
    stands between them.

    Args:
        recipe: makes the quantizers.
        shapes: of their parameters.

    Attributes:
        scores: queries times transposed keys.
        context: softmax rows times values.
    """

    binarize_role: ClassVar[str] = "attention"

    def __init__(self, recipe: AttentionRecipe, shapes: AttentionShapes) -> None:
        super().__init__()
        rows, value = recipe.rows(()), recipe.value(shapes.value)
        self.scores = BinaryProduct(recipe.query(shapes.query), recipe.key(shapes.key))
        self.context = BinaryProduct(value, rows) if shapes.rows_right else BinaryProduct(rows, value)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """The arguments of `torch.nn.functional.scaled_dot_product_attention`, with the same meaning.

        Args:
            query: (N, ..., L, D).
            key: (N, ..., S, D).
            value: (N, ..., S, E).
            attn_mask: broadcastable to (N, ..., L, S): bool, True where a key takes part, or float, added.
            dropout_p: share of softmax weights that are set to 0, also in evaluation mode.
            is_causal: position i sees keys 0 to i only.
            scale: of the scores; 1 / sqrt(D) if None.
            enable_gqa: several heads of queries share one of keys and values.

        Returns:
            (N, ..., L, E).
        """
        if enable_gqa:
            times = query.shape[-3] // key.shape[-3]
            key, value = (x.repeat_interleave(times, -3) for x in (key, value))
        factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        scores = self.scores(query, key.transpose(-2, -1)) * factor
        weights = _softmax(scores, attn_mask, is_causal)
        if dropout_p > 0:
            weights = F.dropout(weights, dropout_p)
        return self.context(weights, value)


def _softmax(scores: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Softmax over keys that take part; rows without one are 0, as torch's attention defines them."""
    if causal:
        visible = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(visible.logical_not(), -math.inf)
    if mask is None:
        return scores.softmax(-1)
    hidden = mask.logical_not() if mask.dtype == torch.bool else None
    scores = scores + mask if hidden is None else scores.masked_fill(hidden, -math.inf)
    empty = scores.isneginf().all(-1, keepdim=True)
    return scores.masked_fill(empty, 0).softmax(-1).masked_fill(empty, 0)
