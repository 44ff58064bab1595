"""Scores of attention as networks write them: products with keys, numbers, biases, views of heads."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from binarize.runtime.program.graph import ProgramGraph, is_float, only_user, shape_of, value_of
from binarize.runtime.program.passes.attention_dims import common, regrouped

aten = torch.ops.aten
_PRODUCTS = {aten.matmul.default, aten.bmm.default}
_VIEWS = {
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.expand.default,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.flatten.using_ints,
    aten.unflatten.int,
}
_SCALES = {aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar}


class NotOneError(Exception):
    """Attention that cannot be one operator; the message says why."""


@dataclass
class Scores:
    """Factor q k^T + biases.

    Attributes:
        q: (..., L, D).
        k: (..., S, D).
        factor: see above.
        shape: (..., L, S), with the leading dims that q, k and the biases are brought to.
        masked_is_zero: see `binarize.runtime.ops.attention`.
        bias: each broadcasts to `shape`.
    """

    q: fx.Node
    k: fx.Node
    factor: float
    shape: tuple[int, ...]
    masked_is_zero: bool = False
    bias: list[fx.Node] = field(default_factory=list)


def following(node: fx.Node) -> tuple[fx.Node | None, list[fx.Node]]:
    """The only reader behind views of leading dims, and the node with these views."""
    found = [node]
    while (user := only_user(found[-1])) is not None and is_leading_view(user):
        found.append(user)
    return user, found


def is_leading_view(node: fx.Node) -> bool:
    """Whether an operator only regroups the dims in front of the last two."""
    if node.target not in _VIEWS:
        return False
    source: Any = node.args[0]
    before, now = shape_of(source), shape_of(node)
    return len(now) >= 2 and before[-2:] == now[-2:] and math.prod(before) == math.prod(now)


def scores_of(program: ProgramGraph, node: fx.Node, last: fx.Node) -> Scores:
    """The scores that a softmax reads.

    Args:
        program: operators are added to it where numbers per head are multiplied.
        node: what the softmax reads.
        last: the product with values.

    Raises:
        NotOneError: something else than the above stands between them.
    """
    factor = 1.0
    tensors: list[tuple[fx.Node, tuple[int, ...]]] = []
    biases: list[tuple[fx.Node, tuple[int, ...]]] = []
    shapes = [shape_of(last)[:-2]]
    while node.target not in _PRODUCTS:
        shapes.append(shape_of(node)[:-2])
        if len(node.users) != 1:
            raise NotOneError("its scores are read by others, too")
        if is_leading_view(node):
            node = _source(node)
        elif node.target in _SCALES:
            scale = _number(node)
            factor *= 1.0 if scale is None else scale
            if scale is None:
                tensors.append((_per_head(node), shape_of(node)[:-2]))
            node = _source(node)
        elif node.target is aten.add.Tensor:
            if factor != 1.0 or tensors:
                raise NotOneError("its scores are scaled behind a bias")
            inner, bias = _terms(node)
            biases.append((bias, shape_of(node)))
            node = inner
        else:
            raise NotOneError(f"{node.target} stands between its product and its softmax")
    shapes.append(shape_of(node)[:-2])
    lead = common(shapes)
    if len(node.users) != 1 or lead is None:
        raise NotOneError("its scores are read by others, too, or regrouped in a way that is not known")
    found = _product(
        program, node, last, factor, tensors, (*lead, *shape_of(last)[-2:-1], shape_of(node)[-1])
    )
    with program.graph.inserting_before(last):
        found.bias += [_brought(program, bias, shape, lead) for bias, shape in reversed(biases)]
    return found


def _source(node: fx.Node) -> fx.Node:
    source: Any = node.args[0]
    return source


def _number(node: Any) -> float | None:
    """What a product or quotient multiplies with; None if that is not a number."""
    value: Any = node.args[1]
    if not isinstance(value, (int, float)) or node.kwargs or value == 0:
        return None
    return 1 / value if node.target in (aten.div.Tensor, aten.div.Scalar) else float(value)


def _per_head(node: fx.Node) -> fx.Node:
    """The numbers, one for each head, that scores are multiplied with."""
    scale: Any = node.args[1]
    shape = shape_of(scale) if isinstance(scale, fx.Node) else ()
    fits = node.target is aten.mul.Tensor and shape_of(_source(node)) == shape_of(node)
    if not fits or shape[-2:] not in ((1, 1), (1,), ()) or not is_float(scale):
        raise NotOneError("its scores are multiplied with a map")
    return scale


def _terms(node: fx.Node) -> tuple[fx.Node, fx.Node]:
    """The scores and the bias of a sum."""
    terms: tuple[Any, ...] = node.args[:2]
    if node.kwargs.get("alpha", 1) == 1:
        for inner, bias in (terms, terms[::-1]):
            both = isinstance(inner, fx.Node) and isinstance(bias, fx.Node)
            if both and shape_of(inner) == shape_of(node) and _is_product(inner) and inner is not bias:
                return inner, bias
    raise NotOneError("a sum in front of its softmax has no product as its term")


def _is_product(node: Any) -> bool:
    """Whether scores lead back to a product."""
    passed = {*_SCALES, *_VIEWS, aten.add.Tensor}
    while isinstance(node, fx.Node) and node.target in passed:
        if node.target is aten.add.Tensor and not _is_product(node.args[0]):
            node = node.args[1]
        else:
            node = node.args[0]
    return isinstance(node, fx.Node) and node.target in _PRODUCTS


def _product(
    program: ProgramGraph,
    node: fx.Node,
    last: fx.Node,
    factor: float,
    tensors: list[tuple[fx.Node, tuple[int, ...]]],
    shape: tuple[int, ...],
) -> Scores:
    q, transposed = (n for n in node.args[:2] if isinstance(n, fx.Node))
    while q.target in _SCALES and (scale := _number(q)) is not None:
        q, factor = _source(q), factor * scale
    while transposed.target in _SCALES and (scale := _number(transposed)) is not None:
        transposed, factor = _source(transposed), factor * scale
    with program.graph.inserting_before(last):  # where all that the scores are multiplied with is there
        for tensor, lead in tensors:
            if lead != shape_of(q)[:-2]:
                raise NotOneError("its scores are multiplied with a map")
            val = value_of(q)
            q = program.graph.call_function(aten.mul.Tensor, (q, tensor))
            q.meta["val"] = val
        k = program.graph.call_function(aten.transpose.int, (transposed, -2, -1))
        k.meta["val"] = value_of(transposed).transpose(-2, -1)
    return Scores(q=q, k=k, factor=factor, shape=shape)


def _brought(program: ProgramGraph, bias: fx.Node, shape: tuple[int, ...], lead: tuple[int, ...]) -> fx.Node:
    """A bias of scores of one shape as a bias of scores with other leading dims."""
    own = (1,) * (len(shape) - len(shape_of(bias))) + shape_of(bias)
    groups = regrouped(shape[:-2], lead)
    if groups is None:
        raise NotOneError("its scores are regrouped in a way that is not known")
    made: list[int] = []
    for size, group in zip(own[:-2], groups, strict=True):
        made += [1] * len(group) if size == 1 else group
    wanted = (*made, *own[-2:])
    if wanted == shape_of(bias):
        return bias
    if (tensor := program.tensor(bias)) is not None:
        return program.constant(tensor.detach().reshape(wanted))
    node = program.graph.call_function(aten.reshape.default, (bias, list(wanted)))
    node.meta["val"] = value_of(bias).new_empty(wanted)
    return node
