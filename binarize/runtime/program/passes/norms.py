"""Layer norms over the last dim become the operator that takes bypass, activation and sum in."""

from __future__ import annotations

import operator

import torch

from binarize.runtime import ops
from binarize.runtime.program.arguments import arguments
from binarize.runtime.program.graph import COMPUTED, ProgramGraph, is_float, shape_of

aten = torch.ops.aten
_DEFAULTS = (None, None, None, None, 1e-5)


def norms(program: ProgramGraph) -> None:
    """Layer norms of the network's own; those of packed layers are such operators already."""
    for node in program.calls(aten.layer_norm.default):
        x, shape, weight, bias, eps = arguments(node, _DEFAULTS)[:5]
        if len(shape) != 1 or len(shape_of(node)) < 2 or not is_float(node) or not is_float(x):
            program.missed("norms", node, "it is over several dims, or not in float32")
            continue
        if not program.known(weight, bias):
            program.missed("norms", node, COMPUTED)
            continue
        with program.graph.inserting_after(node):
            made = program.graph.call_function(ops.normed, (x, None, weight, bias, [], [], float(eps)))
        with program.graph.inserting_after(made):
            result = program.graph.call_function(operator.getitem, (made, 0))
        val = node.meta["val"]
        made.meta["val"], result.meta["val"] = (val, val.new_empty(0)), val
        program.replace(node, result)
