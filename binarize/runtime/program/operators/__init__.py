"""How each operator becomes steps: one module for each family. Torch computes operators that none knows."""

from binarize.runtime.program.operators import (
    attention,
    float_layers,
    layer,
    movement,
    normed,
    pointwise,
    resampling,
    stem,
    views,
)
from binarize.runtime.program.operators.registry import lower_node

__all__ = [
    "attention",
    "float_layers",
    "layer",
    "lower_node",
    "movement",
    "normed",
    "pointwise",
    "resampling",
    "stem",
    "views",
]
