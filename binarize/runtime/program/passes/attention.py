"""Attention: products with keys, softmax and products with values become one operator."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from binarize.runtime import ops
from binarize.runtime.program.arguments import arguments
from binarize.runtime.program.graph import ProgramGraph, is_float, shape_of, value_of
from binarize.runtime.program.passes.attention_scores import NotOneError, Scores, following, scores_of

aten = torch.ops.aten
_SDPA = (None, None, None, None, 0.0, False)
_SOFTMAX = {aten.softmax.int, aten._softmax.default}
_PRODUCTS = {aten.matmul.default, aten.bmm.default}


def attention(program: ProgramGraph) -> None:
    """Rewrite `scaled_dot_product_attention`, and softmax between two products."""
    for node in program.calls(aten.scaled_dot_product_attention.default):
        _rewrite(program, node, node, _of_one_call)
    for node in program.calls(*_SOFTMAX):
        last, views = following(node)
        if last is not None and last.target in _PRODUCTS and last.args[0] is views[-1]:
            _rewrite(program, last, node, _of_several)
        elif any(n.target in _PRODUCTS and n.args[0] is views[-1] for n in views[-1].users):
            program.missed("attention", node, "its weights are read by others, too")


def _rewrite(program: ProgramGraph, node: fx.Node, where: fx.Node, read: Any) -> None:
    """Let one operator take the place of `node`, which gives the result."""
    try:
        known: Scores = read(program, node, where)
        v: Any = arguments(node)[2 if node is where else 1]
        _check(known, node, v)
    except NotOneError as reason:
        program.missed("attention", where, str(reason))
        return
    lead = known.shape[:-2]
    with program.graph.inserting_before(node):
        q, k, v = (_viewed(program, x, lead) for x in (known.q, known.k, v))
        bias = [_of_rows(program, b) for b in known.bias]
        made = program.graph.call_function(ops.attention, (q, k, v, bias, known.factor, known.masked_is_zero))
        val = value_of(node)
        made.meta["val"] = val.new_empty((*lead, *val.shape[-2:]))
        result = _viewed(program, made, tuple(val.shape[:-2]))
    program.taken("attention", where)
    program.replace(node, result)


def _check(known: Scores, node: fx.Node, v: fx.Node) -> None:
    if not all(is_float(n) for n in (known.q, known.k, v, node, *known.bias)):
        raise NotOneError("not all of it is float32")
    if len(known.bias) > 2:
        raise NotOneError("there are more than two biases")
    q, k, shape, given = (shape_of(n) for n in (known.q, known.k, node, v))
    lead, wanted = shape[:-2], math.prod(known.shape[:-2])
    if (
        not lead
        or q[:-2] != k[:-2]
        or given[:-2] != lead
        or not math.prod(q[:-2]) == math.prod(lead) == wanted
    ):
        raise NotOneError("queries, keys and values have other heads, or are repeated")
    if q[-1] != k[-1] or k[-2] != given[-2] or 0 in (*q, *k, *given):
        raise NotOneError("queries, keys and values do not fit")


def _of_one_call(program: ProgramGraph, node: fx.Node, where: fx.Node) -> Scores:
    q, k, _, mask, dropout, causal = arguments(node, _SDPA)
    if dropout or node.kwargs.get("dropout_p"):
        raise NotOneError("it has dropout")
    if node.kwargs.get("enable_gqa"):
        raise NotOneError("heads share keys")
    mask: Any = node.kwargs.get("attn_mask", mask)
    causal = node.kwargs.get("is_causal", causal)
    scale: Any = node.kwargs.get("scale")
    length, columns = shape_of(q)[-2], shape_of(k)[-2]
    factor = shape_of(q)[-1] ** -0.5 if scale is None else float(scale)
    found = Scores(q=q, k=k, factor=factor, shape=(*shape_of(q)[:-1], columns), masked_is_zero=True)
    if causal:
        found.bias.append(_mask(program, torch.ones(length, columns, dtype=torch.bool).tril()))
    if mask is None:
        return found
    if value_of(mask).dtype == torch.bool:
        tensor = program.tensor(mask)
        if tensor is None:
            raise NotOneError("its mask of true and false is computed at each call")
        mask = _mask(program, tensor)
    found.bias.append(mask)
    return found


def _mask(program: ProgramGraph, visible: Tensor) -> fx.Node:
    """0 where a key is visible, else -inf."""
    return program.constant(torch.zeros(visible.shape).masked_fill(visible.logical_not(), float("-inf")))


def _of_several(program: ProgramGraph, node: fx.Node, where: fx.Node) -> Scores:
    source, dim, dtype = arguments(where, (None, None, where.kwargs.get("dtype")))
    rank = len(shape_of(where))
    if dim % rank != rank - 1 or dtype not in (None, False, torch.float32):
        raise NotOneError("its softmax is over another dim, or in another dtype")
    return scores_of(program, source, node)


def _viewed(program: ProgramGraph, node: fx.Node, lead: tuple[int, ...]) -> fx.Node:
    """The same rows under other leading dims."""
    shape = (*lead, *shape_of(node)[-2:])
    if shape_of(node) == shape:
        return node
    made = program.graph.call_function(aten.reshape.default, (node, list(shape)))
    made.meta["val"] = value_of(node).new_empty(shape)
    return made


def _of_rows(program: ProgramGraph, bias: fx.Node) -> fx.Node:
    """A bias whose rows are dense, if it is a constant."""
    tensor = program.tensor(bias)
    if tensor is None or tensor.dim() == 0 or tensor.stride(-1) == 1:
        return bias
    return program.constant(tensor.detach().contiguous())
