"""`torch.ops.binarize.attention`: one operator of programs. Importing this module registers it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_library = torch.library.Library("binarize", "FRAGMENT")
_library.define(
    "attention(Tensor q, Tensor k, Tensor v, Tensor[] bias, float factor, bool masked_is_zero) -> Tensor"
)


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


_library.impl("attention", _attention, "CPU")
torch.library.register_fake("binarize::attention", _attention, lib=_library)

attention = torch.ops.binarize.attention.default
"""softmax(factor q k^T + biases) v: q (..., L, D), k (..., S, D), v (..., S, E) to (..., L, E).

Biases broadcast to (..., L, S); there are at most two. `masked_is_zero`: a row whose scores are all -inf has
the weights 0, as `scaled_dot_product_attention` has it, instead of NaN, as a softmax has it.
"""
