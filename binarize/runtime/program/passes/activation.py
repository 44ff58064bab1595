"""Activations: several small operators are one, and the packed layer or layer norm in front computes it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from binarize.runtime import ops
from binarize.runtime.layer_data import spec_of_text
from binarize.runtime.program.arguments import HARDTANH, arguments, source_of
from binarize.runtime.program.graph import (
    COMPUTED,
    ProgramGraph,
    is_float,
    made_by,
    only_user,
    operator_name,
    shape_of,
)

aten = torch.ops.aten
_OTHERS = (
    aten.gelu.default,
    aten.silu.default,
    aten.hardswish.default,
    aten.hardsigmoid.default,
    aten.sigmoid.default,
    aten.tanh.default,
    aten.elu.default,
    aten.leaky_relu.default,
)
"""Activations that are steps of their own behind a packed layer."""


def name_activations(program: ProgramGraph) -> None:
    """RPReLU, BiasPReLU, PReLU and Maxout, of any channel dim, become one operator each."""
    for node in program.calls(aten.prelu.default):
        _name_prelu(program, node)
    for node in program.calls(aten.sub.Tensor):
        _name_maxout(program, node)


def layer_activations(program: ProgramGraph) -> None:
    """An activation that only reads the result of a packed layer, or of its norm, becomes a part of it."""
    targets = (ops.piecewise, aten.relu.default, aten.hardtanh.default, aten.relu6.default)
    for node in program.calls(*targets, *_OTHERS):
        source, result = made_by(node.args[0], ops.layer, ops.normed)
        if source is None or result is None:
            continue
        reason = _why_not(program, node, source, result)
        if reason:
            program.missed("activation", node, reason)
            continue
        arrays, bounds = _arguments(node)
        given = {"bounds": bounds} if bounds else {}
        source.args = (*source.args[:5], arrays, *source.args[6:])
        source.kwargs = {**source.kwargs, **given}
        program.taken("activation", node)
        program.replace(node, result)


def _why_not(program: ProgramGraph, node: fx.Node, layer: fx.Node, result: fx.Node) -> str:
    if node.target in _OTHERS:
        return f"packed layers do not compute {operator_name(node)}, only piecewise linear functions"
    if only_user(result) is not node:
        return "others read the packed layer's result, too"
    if layer.args[5] or any(layer.kwargs.get(k) for k in ("bounds", "residual", "tail_weight", "with_sums")):
        return "the packed layer in front has another activation, a sum or a classifier behind it already"
    if node.target is ops.piecewise and not program.known(*node.args[1:5]):
        return COMPUTED
    if node.target is ops.piecewise and _dim_of(layer, result) != arguments(node)[5] % len(shape_of(node)):
        return "the activation has its channels in another dim"
    return ""


def _dim_of(layer: fx.Node, result: fx.Node) -> int:
    last = layer.target is ops.normed or spec_of_text(str(layer.args[3])).kind == "linear"
    return len(shape_of(result)) - 1 if last else 1


def _arguments(node: fx.Node) -> tuple[list[Any], list[float]]:
    if node.target is ops.piecewise:
        return list(node.args[1:5]), []
    if node.target is aten.relu.default:
        return [None] * 4, []
    if node.target is aten.relu6.default:
        return [], [0.0, 6.0]
    _, low, high = arguments(node, HARDTANH)
    return [], [float(low), float(high)]


def _name_prelu(program: ProgramGraph, node: fx.Node) -> None:
    x, slope = arguments(node)
    weight = program.tensor(slope)
    rank = len(shape_of(node))
    if not isinstance(x, fx.Node) or not is_float(node) or rank < 2:
        return
    if weight is None or not program.known(slope):
        program.missed("activation", node, COMPUTED)
        return
    first, last, dim = x, node, 1
    if x.target is aten.movedim.int and only_user(x) is node:
        behind = only_user(node)
        if _moves(x, rank) != (rank - 1, 1) or behind is None or _moves(behind, rank) != (1, rank - 1):
            return
        first, last, dim = source_of(x), behind, -1
    channels = shape_of(last)[dim]
    before, source = _added(program, first, channels, dim, last)
    after, final = _added_behind(program, last, channels, dim)
    slopes = weight.detach().reshape(-1)
    negative = program.constant(slopes.expand(channels).contiguous())
    with program.graph.inserting_after(final):
        made = program.graph.call_function(
            ops.piecewise, (source, before, negative, None, after, dim % len(shape_of(last)))
        )
    made.meta["val"] = final.meta["val"]
    program.replace(final, made)


def _moves(node: fx.Node, rank: int) -> tuple[int, ...]:
    """From which dim to which one an operator moves; empty if it is another operator."""
    moved = arguments(node)[1:] if node.target is aten.movedim.int else ()
    return tuple(d % rank for d in moved)


def _vector(program: ProgramGraph, value: Any, channels: int, dim: int, rank: int) -> Tensor | None:
    """A constant that has one number for each channel, as a vector."""
    tensor = program.tensor(value)
    if tensor is None or tensor.numel() != channels or tensor.dtype != torch.float32:
        return None
    sizes = [1] * rank
    sizes[dim] = channels
    lined_up = [1] * (rank - tensor.dim()) + list(tensor.shape)
    return tensor.detach().reshape(-1).contiguous() if lined_up == sizes else None


def _added(
    program: ProgramGraph, node: fx.Node, channels: int, dim: int, last: fx.Node
) -> tuple[fx.Node | None, fx.Node]:
    """A bias that was added to reach `node`, and what it was added to."""
    if node.target is not aten.add.Tensor or len(node.users) != 1 or node.kwargs:
        return None, node
    vector = _vector(program, node.args[1], channels, dim, len(shape_of(node)))
    source = source_of(node)
    if vector is None or shape_of(source) != shape_of(node):
        return None, node
    return program.constant(vector), source


def _added_behind(
    program: ProgramGraph, node: fx.Node, channels: int, dim: int
) -> tuple[fx.Node | None, fx.Node]:
    """A bias that is added to `node` and nothing else, and the sum."""
    user = only_user(node)
    if user is None or user.target is not aten.add.Tensor or user.args[0] is not node or user.kwargs:
        return None, node
    vector = _vector(program, user.args[1], channels, dim, len(shape_of(node)))
    return (None, node) if vector is None else (program.constant(vector), user)


def _name_maxout(program: ProgramGraph, node: fx.Node) -> None:
    """P * relu(x) - q * relu(-x)."""
    above, below = (_scaled_relu(program, side) for side in node.args[:2])
    if above is None or below is None or node.kwargs:
        return
    (p, x), (q, minus) = above, below
    if not (isinstance(minus, fx.Node) and minus.target is aten.neg.default and minus.args[0] is x):
        return
    rank = len(shape_of(node))
    if rank < 2 or shape_of(x) != shape_of(node) or not is_float(node):
        return
    for dim in dict.fromkeys((1, rank - 1)):
        channels = shape_of(node)[dim]
        positive, negative = (_vector(program, v, channels, dim, rank) for v in (p, q))
        if positive is not None and negative is not None:
            arrays = (None, program.constant(negative), program.constant(positive), None)
            with program.graph.inserting_after(node):
                made = program.graph.call_function(ops.piecewise, (x, *arrays, dim))
            made.meta["val"] = node.meta["val"]
            program.replace(node, made)
            return


def _scaled_relu(program: ProgramGraph, node: Any) -> tuple[Any, Any] | None:
    """(p, x) of p * relu(x), where p may be a view of a constant."""
    if not isinstance(node, fx.Node) or node.target is not aten.mul.Tensor:
        return None
    p, relu = node.args
    if not isinstance(relu, fx.Node) or relu.target is not aten.relu.default:
        return None
    return p, relu.args[0]
