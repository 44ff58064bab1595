"""Maps between packed layers are stored as bfloat16, where the network's precision is `bf16`."""

from __future__ import annotations

from typing import Any

from torch import fx

from binarize.runtime import ops
from binarize.runtime.native_layer import NativeLayer
from binarize.runtime.program.graph import ProgramGraph, first_result, is_float, shape_of
from binarize.runtime.program.passes.layer_kernels import kernels_of

_SMALL = 128 << 10
"""Bytes of a float32 map which the caches hold anyway."""


def bf16_maps(program: ProgramGraph) -> None:
    """Let packed layers and stems round the results that only packed layers read."""
    if program.precision != "bf16":
        return
    for node in program.calls(ops.layer, ops.stem):
        result = first_result(node)
        classifies = node.kwargs.get("tail_weight") is not None
        if result is None or classifies or not is_float(result):  # it is not used, or it is bits
            continue
        if reason := _why_not(program, node, result):
            program.missed("bf16_maps", node, reason)
            continue
        node.kwargs = {**node.kwargs, "as_bf16": True}
        for user in list(result.users):
            user.kwargs = {**user.kwargs, "from_bf16": True}
        result.meta["val"] = result.meta["val"].bfloat16()
        node.meta["val"] = (result.meta["val"], node.meta["val"][1])
        program.taken("bf16_maps", node)


def _why_not(program: ProgramGraph, node: fx.Node, result: fx.Node) -> str:
    if 4 * result.meta["val"].numel() < _SMALL:
        return "the map is small: the caches hold it"
    x: Any = node.args[0]
    if node.target is ops.layer and not _on_kernels(program, node, shape_of(x)):
        return "torch computes the layer that makes it"
    for user in result.users:
        if user.target is not ops.layer:
            return "other operators than packed layers read it"
        if any(value is result for name, value in user.kwargs.items() if name != "residual"):
            return "a layer takes it as something else than its input"
        x = user.args[0]
        shape = shape_of(x)
        if not _on_kernels(program, user, shape):
            return "torch computes a layer that reads it"
        if x is result and _bypass_is_made(program, user, shape):
            return "the bypass of a layer that reads it is a map of its own"
    return ""


def _on_kernels(program: ProgramGraph, layer: fx.Node, shape: tuple[int, ...]) -> bool:
    """Whether one step of the library computes a layer."""
    if layer.kwargs.get("plane"):
        return True
    native = kernels_of(program, layer)
    if not isinstance(native, NativeLayer) or native.doubled is not None or native.transposed is not None:
        return False
    return bool(shape) and native.whole


def _bypass_is_made(program: ProgramGraph, layer: fx.Node, shape: tuple[int, ...]) -> bool:
    """Whether a layer's bypass is neither its input nor an interpolation of it."""
    native = kernels_of(program, layer)
    if not isinstance(native, NativeLayer) or native.data.bypass is None or native.direct:
        return False
    return bool(layer.kwargs.get("resize")) or native.prepared(shape).halved is None
