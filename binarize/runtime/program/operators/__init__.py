"""How each operator becomes steps: one module for each family. Operators that none knows are computed by torch."""

from binarize.runtime import ops
from binarize.runtime.program.operators import layer, views
from binarize.runtime.program.operators.registry import lower_node

PLACEABLE: set[object] = {ops.layer}
"""Operators whose result may be written to a part of a wider map."""

__all__ = ["PLACEABLE", "layer", "lower_node", "views"]
