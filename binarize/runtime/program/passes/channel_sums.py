"""Sums over positions that a layer needs for its thresholds come from the step that makes its input."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import fx

from binarize.runtime import ops
from binarize.runtime.kernel_support import wants_means
from binarize.runtime.layer_data import spec_of_text
from binarize.runtime.pointwise_code import Code
from binarize.runtime.program.arguments import source_of
from binarize.runtime.program.graph import ProgramGraph, made_by, shape_of

aten = torch.ops.aten
_MAKERS = (ops.layer, ops.pointwise, ops.normed, ops.stem)
_PERMUTES = (
    aten.permute.default,
    aten.transpose.int,
    aten.movedim.int,
    aten.movedim.intlist,
    aten.mT.default,
    aten.t.default,
)
_RESHAPES = (
    aten.reshape.default,
    aten.view.default,
    aten._unsafe_view.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
)
"""They keep the order of all values, counted row by row."""
_OTHER_DIM = "its input has its channels in another dim than what makes it"
_NOBODY = "no packed layer, stem or elementwise step makes its input"
_ROWS = "it is over rows of a matrix, which are the positions of one image"
_CLASSIFIER = "the packed layer in front has a classifier behind it"


def channel_sums(program: ProgramGraph) -> None:
    """Let means, and layers whose thresholds depend on them, take the sums from the step in front."""
    for node in program.calls(ops.mean):
        sums = _sums_for(program, node.args[0], 1)
        if isinstance(sums, fx.Node):
            node.args = (node.args[0], sums)
            program.taken("channel_sums", node)
        elif sums == _OTHER_DIM:
            program.missed("channel_sums", node, sums)
    for node in program.calls(ops.layer):
        spec = spec_of_text(str(node.args[3]))
        if not wants_means(spec):
            continue
        if node.kwargs.get("resize"):
            program.missed("channel_sums", node, "it reads a resized map, whose means are others")
            continue
        sums = _sums_for(program, node.args[0], -1 if spec.kind == "linear" else 1)
        if isinstance(sums, str):
            program.missed("channel_sums", node, sums)
            continue
        node.kwargs = {**node.kwargs, "sums_of_x": sums}
        program.taken("channel_sums", node)


def _sums_for(program: ProgramGraph, x: Any, dim: int) -> fx.Node | str:
    """The sums (images, channels) of a node, its channels being in this dim; why there are none.

    The dim is followed back to the step that makes the values: every other dim but the first is positions,
    whose order does not matter.
    """
    rank = len(shape_of(x))
    if rank < 3:
        return _ROWS
    at: int | None = dim % rank
    while isinstance(x, fx.Node) and at:
        maker, result = made_by(x, *_MAKERS)
        if maker is not None and result is not None:
            return _asked(program, maker, result, at)
        if x.target in _PERMUTES:
            at = _moved_from(x, at) if _moved_from(x, 0) == 0 else None
        elif x.target in _RESHAPES:
            at = _shaped_from(x, at)
        else:
            return _NOBODY
        x = x.args[0]
    return _NOBODY if at else _OTHER_DIM


def _moved_from(node: fx.Node, dim: int) -> int:
    """Where a dim of a permutation's result lay."""
    rank = len(shape_of(node))
    names = torch.empty(tuple(range(rank)), device="meta")  # each dim has its number as its size
    target: Any = node.target
    return target(names, *node.args[1:]).shape[dim]


def _shaped_from(node: fx.Node, dim: int) -> int | None:
    """Where a dim of a changed shape lay; None if it was split or merged, or the images were."""
    before, after = shape_of(source_of(node)), shape_of(node)
    if not before or 0 in before or before[0] != after[0]:
        return None
    for d in range(1, len(before)):
        if before[d] == after[dim] and math.prod(before[:d]) == math.prod(after[:dim]):
            return d
    return None


def _asked(program: ProgramGraph, maker: fx.Node, result: fx.Node, dim: int) -> fx.Node | str:
    """Let a step give sums of its result, whose channels have to be in this dim."""
    if maker.kwargs.get("tail_weight") is not None:
        return _CLASSIFIER
    if maker.target in (ops.layer, ops.normed) and len(shape_of(result)) < 3:
        return _ROWS
    if maker.target is ops.pointwise and not maker.args[1] and not maker.kwargs.get("with_sums"):
        code = Code.of_text(str(maker.args[2]))
        maker.args = (*maker.args[:2], code._replace(dim=dim).text())
    if _dim(maker, result) != dim:
        return _OTHER_DIM
    maker.kwargs = {**maker.kwargs, "with_sums": True}
    return _sums_of(program, maker, result)


def _dim(maker: fx.Node, result: fx.Node) -> int:
    """Where the channels of a result are."""
    linear = maker.target is ops.layer and spec_of_text(str(maker.args[3])).kind == "linear"
    dim = -1 if linear or maker.target is ops.normed else 1
    if maker.target is ops.pointwise:
        dim = Code.of_text(str(maker.args[2])).dim
    return dim % len(shape_of(result))


def _sums_of(program: ProgramGraph, maker: fx.Node, result: fx.Node) -> fx.Node:
    for user in maker.users:
        if user.target is operator.getitem and user.args[1] == 1:
            return user
    with program.graph.inserting_after(maker):
        sums = program.graph.call_function(operator.getitem, (maker, 1))
    shape = shape_of(result)
    sums.meta["val"] = result.meta["val"].new_empty((shape[0], shape[_dim(maker, result)]))
    maker.meta["val"] = (maker.meta["val"][0], sums.meta["val"])
    return sums
