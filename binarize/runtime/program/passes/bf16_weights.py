"""Float weights of linear layers are stored as bfloat16, where the network's precision is `bf16`."""

from __future__ import annotations

import math
from typing import Any

from binarize.runtime import ops
from binarize.runtime.program.graph import ProgramGraph, shape_of

_SMALL = 128 << 10
"""Bytes of float32 weights which the caches hold anyway."""

_FEW = 32
"""Rows of an input with which the reading of the weights takes most of a layer's time."""


def bf16_weights(program: ProgramGraph) -> None:
    """Let classifiers on one vector per image, and layers like them, read half the bytes."""
    if program.precision != "bf16":
        return
    for node in program.calls(ops.linear):
        weight: Any = program.tensor(node.args[1])
        if weight is None:
            continue
        outputs = weight.shape[0]
        if 4 * weight.numel() < _SMALL:
            program.missed("bf16_weights", node, "the weights are few: the caches hold them")
        elif math.prod(shape_of(node)) > _FEW * outputs:
            program.missed("bf16_weights", node, "many rows: the products take the time, not the weights")
        else:
            node.kwargs = {**node.kwargs, "bf16_weight": True}
            program.taken("bf16_weights", node)
