"""Operators that change nothing in evaluation are dropped."""

from __future__ import annotations

import torch
from torch import fx

from binarize.runtime.program.arguments import arguments
from binarize.runtime.program.graph import ProgramGraph, value_of

aten = torch.ops.aten
_SAME = {
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.alpha_dropout.default,
    aten.contiguous.default,
    aten.clone.default,
    aten.detach.default,
    aten.alias.default,
    aten.lift_fresh_copy.default,
    aten.to.dtype,
    aten.to.device,
    aten.to.dtype_layout,
    aten._to_copy.default,
    aten.type_as.default,
    aten.expand.default,
    aten.view.default,
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.slice.Tensor,
    aten.permute.default,
    aten.pad.default,
    aten.constant_pad_nd.default,
    aten.roll.default,
}


def simplify(program: ProgramGraph) -> None:
    """Drop dropout, copies, conversions and padding that keep dtype, shape and values."""
    for node in program.calls(*_SAME):
        source = node.args[0]
        if isinstance(source, fx.Node) and _changes_nothing(node, source):
            program.replace(node, source)


def _changes_nothing(node: fx.Node, source: fx.Node) -> bool:
    now, before = value_of(node), value_of(source)
    if (now.shape, now.dtype, now.device) != (before.shape, before.dtype, before.device):
        return False
    if node.target in (aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default):
        return not node.args[2]
    if node.target is aten.permute.default:
        return list(arguments(node)[1]) == list(range(now.dim()))
    if node.target in (aten.pad.default, aten.constant_pad_nd.default, aten.roll.default):
        return not any(arguments(node)[1])
    if node.target is aten.slice.Tensor:
        return arguments(node, (None, 0, None, None, 1))[4] == 1
    return True
