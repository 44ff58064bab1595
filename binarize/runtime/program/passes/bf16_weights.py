"""Float weights of linear layers are stored as bfloat16, where the network's precision is `bf16`."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, fx
from torch.nn import functional as F

from binarize.runtime import ops
from binarize.runtime.program.graph import ProgramGraph, shape_of

_SMALL = 128 << 10
"""Bytes of float32 weights which the caches hold anyway."""

_FEW = 32
"""Rows of an input with which the reading of the weights takes most of a layer's time."""


def bf16_weights(program: ProgramGraph) -> None:
    """Let classifiers on one vector per image, and layers like them, read copies of half the bytes."""
    if program.precision != "bf16":
        return
    for node in program.calls(ops.linear):
        weight: Any = program.tensor(node.args[1])
        if weight is None:
            continue
        if reason := _why_not(program, node, weight):
            program.missed("bf16_weights", node, reason)
            continue
        node.kwargs = {**node.kwargs, "rounded": program.constant(bf16_blocks(weight.detach().flatten(1)))}
        program.taken("bf16_weights", node)


def _why_not(program: ProgramGraph, node: fx.Node, weight: Tensor) -> str:
    bias = program.tensor(node.args[2])
    if 4 * weight.numel() < _SMALL:
        return "the weights are few: the caches hold them"
    if math.prod(shape_of(node)) > _FEW * len(weight):
        return "many rows: the products take the time, not the weights"
    if bias is not None and bias.stride(0) != 1:
        return "the bias is a view with gaps: torch computes the layer"
    return ""


def bf16_blocks(weight: Tensor) -> Tensor:
    """(outputs, inputs) to (ceil(outputs / 16), inputs, 16) in bfloat16, zeros behind the last output."""
    blocks = F.pad(weight.bfloat16(), (0, 0, 0, -weight.shape[0] % 16)).unflatten(0, (-1, 16))
    return blocks.movedim(1, 2).contiguous()
