"""A float 1x1 convolution behind a packed layer is done where the layer's results are made, never stored."""

from __future__ import annotations

import torch
from torch import fx

from binarize.runtime.kernel_support import is_depthwise
from binarize.runtime.layer_data import spec_of_text
from binarize.runtime.program.arguments import CONV, arguments
from binarize.runtime.program.graph import ProgramGraph, is_float, layer_of, only_user

aten = torch.ops.aten


def classifier(program: ProgramGraph) -> None:
    """Float 1x1 convolutions, of heads above all."""
    for node in program.calls(aten.conv2d.default):
        layer, result = layer_of(node.args[0])
        if layer is None or result is None or not _is_pointwise(program, node):
            continue
        reason = _why_not(node, layer, result)
        if reason:
            program.missed("classifier", layer, reason)
            continue
        weight, bias = node.args[1], node.args[2] if len(node.args) > 2 else None
        layer.kwargs = {**layer.kwargs, "tail_weight": weight, "tail_bias": bias}
        result.meta["val"] = node.meta["val"]
        layer.meta["val"] = (node.meta["val"], layer.meta["val"][1])
        program.taken("classifier", layer)
        program.replace(node, result)


def _is_pointwise(program: ProgramGraph, node: fx.Node) -> bool:
    _, weight, bias, stride, padding, _, groups = arguments(node, CONV)
    tensor = program.tensor(weight)
    plain = all(s == 1 for s in stride) and not any(padding) and groups == 1
    known = bias is None or program.tensor(bias) is not None
    single = tensor is not None and tuple(tensor.shape[2:]) == (1, 1)
    return is_float(node) and single and plain and known


def _why_not(node: fx.Node, layer: fx.Node, result: fx.Node) -> str:
    spec = spec_of_text(str(layer.args[3]))
    if only_user(result) is not node:
        return "the layer's result is read by others, too"
    if spec.kind == "linear" or len(spec.kernel) != 2 or is_depthwise(spec):
        return "kernels of this kind of layer have no tail"
    if spec.norm is not None:
        return "a norm that cannot be folded"
    return ""
