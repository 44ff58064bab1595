"""Binary layers whose weights stay float: the first half of ReActNet's training (arXiv 2003.03488)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from binarize.functional import Rule
from binarize.layers.base import BinaryLayer

_BITS = 32


@dataclass(frozen=True)
class FloatWeights(Rule):
    """w -> w, gradient 1."""

    @property
    def planes(self) -> int:
        """As many as a float has bits: nothing can be packed, and sizes are counted as they are."""
        return _BITS

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Any]:
        """The same tensor."""
        return x.clone(), ()  # a copy: the result of a rule may be changed in place

    def gradient(self, grad: Tensor, x: Tensor, stats: Any, *params: Tensor, y: Tensor | None = None) -> Any:
        """The same gradient."""
        return (grad, *(torch.zeros_like(p) if p.requires_grad else None for p in params))


def use_float_weights(model: nn.Module) -> None:
    """Let all binary layers of a model compute with their latent weights as they are, in place."""
    for module in model.modules():
        if isinstance(module, BinaryLayer):
            module.weight_rule = FloatWeights()


def has_float_weights(model: nn.Module) -> bool:
    """Whether a binary layer of a model computes with its latent weights as they are."""
    return any(
        isinstance(m, BinaryLayer) and isinstance(m.weight_rule, FloatWeights) for m in model.modules()
    )
