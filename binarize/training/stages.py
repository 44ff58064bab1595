"""Two-stage training, as ReActNet's (arXiv 2003.03488): activations become binary first, weights later."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from binarize.layers import BinaryLayer
from binarize.layers.float_weights import FloatWeights, use_float_weights

__all__ = ["FloatWeights", "float_weights"]


@contextmanager
def float_weights(model: nn.Module) -> Iterator[None]:
    """Let all binary layers use their latent weights as they are, for as long as the block runs."""
    layers = [m for m in model.modules() if isinstance(m, BinaryLayer)]
    rules = [layer.weight_rule for layer in layers]
    try:
        use_float_weights(model)
        yield
    finally:
        for layer, rule in zip(layers, rules, strict=True):
            layer.weight_rule = rule
