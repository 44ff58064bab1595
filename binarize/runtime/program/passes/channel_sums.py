"""Sums over positions that a layer needs for its thresholds come from the step that makes its input."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from binarize.runtime import ops
from binarize.runtime.kernel_support import wants_means
from binarize.runtime.layer_data import spec_of_text
from binarize.runtime.pointwise_code import Code
from binarize.runtime.program.arguments import arguments, source_of
from binarize.runtime.program.graph import ProgramGraph, made_by, shape_of

aten = torch.ops.aten
_MAKERS = (ops.layer, ops.pointwise, ops.normed, ops.stem)
_THROUGH = (
    aten.permute.default,
    aten.reshape.default,
    aten.view.default,
    aten.flatten.using_ints,
    aten.transpose.int,
)


def channel_sums(program: ProgramGraph) -> None:
    """Let each layer whose thresholds depend on its input's means take the sums from the step in front."""
    for node in program.calls(ops.mean):
        maker, result = made_by(node.args[0], *_MAKERS)
        if maker is not None and result is not None and _can_sum(maker):
            maker.kwargs = {**maker.kwargs, "with_sums": True}
            node.args = (node.args[0], _sums_of(program, maker, result))
            program.taken("channel_sums", node)
    for node in program.calls(ops.layer):
        if not wants_means(spec_of_text(str(node.args[3]))):
            continue
        if node.kwargs.get("resize"):
            program.missed("channel_sums", node, "it reads a resized map, whose means are others")
            continue
        maker, result = _maker(node)
        if maker is None or result is None:
            program.missed("channel_sums", node, "no packed layer, stem or elementwise step makes its input")
            continue
        if not _can_sum(maker):
            program.missed("channel_sums", node, "the packed layer in front has a classifier behind it")
            continue
        maker.kwargs = {**maker.kwargs, "with_sums": True}
        sums = _sums_of(program, maker, result)
        node.kwargs = {**node.kwargs, "sums_of_x": sums}
        program.taken("channel_sums", node)


def _maker(node: fx.Node) -> tuple[fx.Node | None, fx.Node | None]:
    """The step whose result, seen with the same channels and positions, is a layer's input."""
    x: Any = node.args[0]
    spec = spec_of_text(str(node.args[3]))
    channels = spec.in_channels
    images = shape_of(x)[0]
    while isinstance(x, fx.Node):
        maker, result = made_by(x, *_MAKERS)
        if maker is not None and result is not None:
            return (maker, result) if _same_channels(maker, result, channels, images) else (None, None)
        if x.target not in _THROUGH or not _keeps_channels(x, channels, images):
            return None, None
        x = x.args[0]
    return None, None


def _keeps_channels(node: fx.Node, channels: int, images: int) -> bool:
    """Whether a change of shape moves positions only: images first and channels somewhere, as before."""
    before, after = shape_of(source_of(node)), shape_of(node)
    if not before or not after or before[0] != images or after[0] != images:
        return False
    if node.target in (aten.permute.default, aten.transpose.int):
        return _moved(node, 0) == 0
    # positions are merged or split, the channels being last before and after
    return before[-1] == after[-1] == channels


def _moved(node: fx.Node, dim: int) -> int:
    """Where a dim comes to lie."""
    order = list(range(len(shape_of(node))))
    if node.target is aten.permute.default:
        order = [int(d) % len(order) for d in arguments(node)[1]]
    else:
        a, b = (int(d) % len(order) for d in arguments(node)[1:3])
        order[a], order[b] = order[b], order[a]
    return order.index(dim)


def _same_channels(maker: fx.Node, result: fx.Node, channels: int, images: int) -> bool:
    return shape_of(result)[_dim(maker, result)] == channels and shape_of(result)[0] == images


def _dim(maker: fx.Node, result: fx.Node) -> int:
    """Where the channels of a result are."""
    if maker.target is ops.normed:
        return -1
    if maker.target is ops.layer:
        return -1 if spec_of_text(str(maker.args[3])).kind == "linear" else 1
    return Code.of_text(str(maker.args[2])).dim if maker.target is ops.pointwise else 1


def _can_sum(maker: fx.Node) -> bool:
    return maker.kwargs.get("tail_weight") is None


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
