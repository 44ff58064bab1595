"""Two-stage training, as ReActNet's (arXiv 2003.03488): activations become binary first, weights later."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from binarize.functional import Rule
from binarize.layers import BinaryLayer


@dataclass(frozen=True)
class FloatWeights(Rule):
    """w -> w, gradient 1."""

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Any]:
        """The same tensor."""
        return x.clone(), ()  # a copy: the result of a rule may be changed in place

    def gradient(self, grad: Tensor, x: Tensor, stats: Any, *params: Tensor, y: Tensor | None = None) -> Any:
        """The same gradient."""
        return (grad, *(torch.zeros_like(p) if p.requires_grad else None for p in params))


@contextmanager
def float_weights(model: nn.Module) -> Iterator[None]:
    """Let all binary layers use their latent weights as they are, for as long as the block runs."""
    layers = [m for m in model.modules() if isinstance(m, BinaryLayer)]
    rules = [layer.weight_rule for layer in layers]
    try:
        for layer in layers:
            layer.weight_rule = FloatWeights()
        yield
    finally:
        for layer, rule in zip(layers, rules, strict=True):
            layer.weight_rule = rule
