"""How each operator becomes steps: one module for each family. Torch computes operators that none knows."""

from binarize.runtime.program.operators import float_layers, layer, normed, pointwise, resampling, stem, views
from binarize.runtime.program.operators.registry import lower_node

__all__ = ["float_layers", "layer", "lower_node", "normed", "pointwise", "resampling", "stem", "views"]
