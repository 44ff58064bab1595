"""A float 1x1 convolution behind a packed layer is done where the layer's results are made, never stored."""

from __future__ import annotations

import torch
from torch import fx

from binarize.runtime.kernel_support import is_depthwise
from binarize.runtime.layer_data import spec_of_text
from binarize.runtime.program.arguments import CONV, arguments
from binarize.runtime.program.graph import COMPUTED, ProgramGraph, is_float, layer_of, only_user, shape_of

aten = torch.ops.aten


def classifier(program: ProgramGraph) -> None:
    """Float 1x1 convolutions, of heads above all."""
    for node in program.calls(aten.conv2d.default):
        layer, result = layer_of(node.args[0])
        if layer is None or result is None or not _is_pointwise(node):
            continue
        reason = _why_not(program, node, layer, result)
        if reason:
            program.missed("classifier", node, reason)
            continue
        weight, bias = node.args[1], node.args[2] if len(node.args) > 2 else None
        layer.kwargs = {**layer.kwargs, "tail_weight": weight, "tail_bias": bias}
        result.meta["val"] = node.meta["val"]
        layer.meta["val"] = (node.meta["val"], layer.meta["val"][1])
        program.taken("classifier", node)
        program.replace(node, result)


def _is_pointwise(node: fx.Node) -> bool:
    weight = node.args[1]
    if not isinstance(weight, fx.Node) or len(shape_of(node)) != 4:
        return False
    return is_float(node) and shape_of(weight)[2:] == (1, 1)


def _why_not(program: ProgramGraph, node: fx.Node, layer: fx.Node, result: fx.Node) -> str:
    _, weight, bias, stride, padding, _, groups = arguments(node, CONV)
    spec = spec_of_text(str(layer.args[3]))
    if any(s != 1 for s in stride) or isinstance(padding, str) or any(padding) or groups != 1:
        return "it has a stride, padding or groups"
    if weight is None or not program.known(weight, bias):
        return COMPUTED
    if only_user(result) is not node:
        return "the layer's result is read by others, too"
    if spec.kind == "linear" or len(spec.kernel) != 2 or is_depthwise(spec):
        return "kernels of this kind of layer have no classifier behind them"
    if spec.norm is not None:
        return "the packed layer has a norm that is not folded into its scales"
    n, outputs, h, w = shape_of(node)
    if n * h * w < outputs:  # the map is smaller than the weights, which are laid out again at each call
        return f"fewer positions ({n * h * w}) than outputs ({outputs}): to store the map is faster"
    return ""
