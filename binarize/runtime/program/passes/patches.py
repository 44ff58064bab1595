"""Patch embeddings: a float convolution whose windows do not overlap is a product of patches with a matrix.

torch's convolution takes 2 to 5 times as long for the first layers of vision transformers, since it reorders
their weights and their input at each call.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, fx

from binarize.runtime.program.arguments import CONV, arguments
from binarize.runtime.program.graph import COMPUTED, ProgramGraph, is_float, shape_of

aten = torch.ops.aten


def patches(program: ProgramGraph) -> None:
    """Rewrite convolutions with a stride as large as their kernel, if no other pass took them."""
    for node in program.calls(aten.conv2d.default):
        _, weight, bias, stride, padding, dilation, groups = arguments(node, CONV)
        kernel = tuple(shape_of(weight)[2:])
        apart = tuple(stride) == kernel and max(kernel) > 1 and groups == 1 and len(shape_of(node)) == 4
        if not apart or isinstance(padding, str) or any(padding) or any(d != 1 for d in dilation):
            continue
        if not is_float(node) or 0 in shape_of(node) or not program.known(weight, bias):
            program.missed("patches", node, COMPUTED)
            continue
        tensor = program.tensor(weight)
        order = None if tensor is None else _order(tensor)
        if tensor is None or order is None:
            program.missed("patches", node, "its weights are not dense")
            continue
        program.taken("patches", node)
        _replace(program, node, tensor.detach().permute(0, *order), bias, order)


def _order(weight: Tensor) -> tuple[int, int, int] | None:
    """Dims of the weights in the order of memory, so that their matrix is a view: it is read at each call."""
    orders = ((1, 2, 3), (2, 3, 1))
    return next((order for order in orders if weight.permute(0, *order).is_contiguous()), None)


def _replace(
    program: ProgramGraph, node: fx.Node, weight: Tensor, bias: Any, order: tuple[int, int, int]
) -> None:
    """The convolution as a product.

    Args:
        program: the graph.
        node: the convolution.
        weight: its weights, contiguous with their dims in `order`.
        bias: a node, or None.
        order: of the channel, row and column of a patch; 1, 2 and 3 as in the convolution's weights.
    """
    val = node.meta["val"]
    n, outputs, h, w = shape_of(node)
    channels, kh, kw = (weight.shape[1 + order.index(d)] for d in (1, 2, 3))
    matrix = program.constant(weight.view(outputs, -1))
    put = functools.partial(program.call, like=val)

    with program.graph.inserting_before(node):
        x: Any = node.args[0]
        for dim, size in ((2, h * kh), (3, w * kw)):  # positions that no window reaches
            if shape_of(x)[dim] != size:
                cut = (*shape_of(x)[:dim], size, *shape_of(x)[dim + 1 :])
                x = put(aten.slice.Tensor, x, dim, 0, size, shape=cut)
        split = (n, channels, h, kh, w, kw)
        x = put(aten.view.default, x, list(split), shape=split)
        dims = [0, 2, 4, *(2 * d - 1 for d in order)]
        x = put(aten.permute.default, x, dims, shape=tuple(split[i] for i in dims))
        inside = (n, h, w, channels * kh * kw)
        x = put(aten.reshape.default, x, list(inside), shape=inside)
        x = put(aten.linear.default, x, matrix, bias, shape=(n, h, w, outputs))
        made = put(aten.permute.default, x, [0, 3, 1, 2], shape=(n, outputs, h, w))
    program.replace(node, made)
