"""How each operator becomes steps: one module for each family. Operators that none knows are computed by torch."""

from binarize.runtime import ops
from binarize.runtime.program.operators import float_layers, layer, pointwise, stem, views
from binarize.runtime.program.operators.registry import lower_node

PLACEABLE: set[object] = {ops.layer, ops.pointwise, ops.stem}
"""Operators whose result may be written to a part of a wider map."""

__all__ = ["PLACEABLE", "float_layers", "layer", "lower_node", "pointwise", "stem", "views"]
