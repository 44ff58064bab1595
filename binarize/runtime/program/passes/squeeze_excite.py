"""Squeeze-excite: means from the sums that the layer in front has, and each tiny layer with its activation.

What is left of the block, a product with the gate, is an elementwise operator like others (`pointwise`).
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import fx

from binarize.runtime import ops
from binarize.runtime.program.arguments import CONV, arguments
from binarize.runtime.program.graph import ProgramGraph, is_float, only_user, operator_name, shape_of

aten = torch.ops.aten
_POOLS = (aten.mean.dim, aten.adaptive_avg_pool2d.default)
_ACTIVATIONS: dict[Any, str] = {
    aten.relu.default: "relu",
    aten.sigmoid.default: "sigmoid",
    aten.silu.default: "silu",
    aten.hardsigmoid.default: "hardsigmoid",
    aten.hardswish.default: "hardswish",
    aten.tanh.default: "tanh",
}
_OTHERS = (aten.gelu.default, aten.elu.default, aten.leaky_relu.default, aten.relu6.default)


def squeeze_excite(program: ProgramGraph) -> None:
    """Means over all positions, and layers on vectors with their activation."""
    for node in program.calls(*_POOLS):
        if (order := _positions(node)) is not None:
            _replace_mean(program, node, order)
    for node in program.calls(aten.conv2d.default, aten.linear.default):
        if _is_linear(program, node):
            _take_activation(program, node)


def _positions(node: fx.Node) -> list[int] | None:
    """The permutation of the input to (N, C, positions ...), if it is a mean over positions; else None."""
    source: Any = node.args[0]
    shape = shape_of(source)
    rank = len(shape)
    if not is_float(node) or rank not in (3, 4) or 0 in shape or node.kwargs:
        return None
    if node.target is aten.adaptive_avg_pool2d.default:
        return [0, 1, 2, 3] if rank == 4 and tuple(arguments(node)[1]) == (1, 1) else None
    over = sorted(d % rank for d in arguments(node, (None, None, False))[1] or ())
    if over == [2, 3]:
        return [0, 1, 2, 3]
    return [0, rank - 1, *over] if over == [*range(1, rank - 1)] else None


def _replace_mean(program: ProgramGraph, node: fx.Node, order: list[int]) -> None:
    """The mean as an operator on maps (N, C, H, W)."""
    x: Any = node.args[0]
    val, shape = node.meta["val"], tuple(shape_of(x)[d] for d in order)
    put = functools.partial(program.call, like=val)

    with program.graph.inserting_before(node):
        if order != [*range(len(order))]:
            x = put(aten.permute.default, x, order, shape=shape)
        if len(shape) == 3:
            shape = (*shape[:2], 1, shape[2])
            x = put(aten.unsqueeze.default, x, 2, shape=shape)
        made = put(ops.mean, x, None, shape=(*shape[:2], 1, 1))
        if tuple(val.shape) != (*shape[:2], 1, 1):
            made = put(aten.reshape.default, made, list(val.shape), shape=tuple(val.shape))
    program.replace(node, made)


def _is_linear(program: ProgramGraph, node: fx.Node) -> bool:
    """Whether a layer is a product with a constant matrix."""
    weight = program.tensor(node.args[1])
    if weight is None or not program.known(*node.args[1:3]) or not is_float(node):
        return False
    if node.target is aten.linear.default:
        return weight.dim() == 2
    _, _, _, stride, padding, _, groups = arguments(node, CONV)
    plain = all(s == 1 for s in stride) and groups == 1 and len(shape_of(node)) == 4
    inside = not isinstance(padding, str) and not any(padding)
    return plain and inside and tuple(weight.shape[2:]) == (1, 1)


def _take_activation(program: ProgramGraph, node: fx.Node) -> None:
    user = only_user(node)
    op = "copy" if user is None else _ACTIVATIONS.get(user.target, "copy")
    last = node if op == "copy" or user is None or len(user.args) != 1 else user
    op = "copy" if last is node else op
    bias = node.args[2] if len(node.args) > 2 else None
    with program.graph.inserting_after(last):
        made = program.graph.call_function(ops.linear, (*node.args[:2], bias, op, 0.0, 0.0))
    made.meta = {**node.meta, "val": last.meta["val"]}  # the layer's place, not its activation's
    if last is not node:
        program.taken("squeeze_excite", node)
    elif user is not None and user.target in _OTHERS:
        reason = f"small layers do not compute {operator_name(user)}: it is a step of its own"
        program.missed("squeeze_excite", node, reason)
    program.replace(last, made)
