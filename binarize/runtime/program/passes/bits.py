"""A packed layer gives the next one its bits, where nobody else reads the map, which is never stored."""

from __future__ import annotations

from typing import Any

from torch import fx

from binarize.runtime import ops
from binarize.runtime.kernel_arguments import quantizer_arguments
from binarize.runtime.kernel_support import scales_differ
from binarize.runtime.layer_data import LayerData, spec_of_text
from binarize.runtime.native_layer import NativeLayer
from binarize.runtime.program.graph import ProgramGraph, layer_of, nodes_in, only_user, shape_of
from binarize.runtime.program.passes.layer_kernels import kernels_of
from binarize.runtime.spec import PackedSpec

_FIXED = ("sign", "step", "shifted", "shifted_step", "redistributed", "adabin")
"""Quantizers whose thresholds do not depend on the values of the map."""


def bits(program: ProgramGraph) -> None:
    """Layers with fixed thresholds directly behind another packed layer."""
    for node in program.calls(ops.layer):
        front, result = layer_of(node.args[0])
        spec = spec_of_text(str(node.args[3]))
        if front is None or result is None or spec.quantizer.kind not in _FIXED:
            continue
        found = _plane(program, node, front, result)
        if isinstance(found, str):
            program.missed("bits", node, found)
            continue
        _rewrite(program, node, front, result, found)
        program.taken("bits", node)


def _plane(program: ProgramGraph, node: fx.Node, front: fx.Node, result: fx.Node) -> list[int] | str:
    """The plane that the layer `node` reads; why the one in front cannot make it."""
    spec, before = (spec_of_text(str(n.args[3])) for n in (node, front))
    if spec.bypass is not None:
        return "its bypass adds the values of its input"
    others = [n for n in front.users if n.args[1] == 0] != [result] or only_user(result) is not node
    if others:
        return "others read the result of the packed layer in front, too"
    if result in nodes_in((node.args[1:], node.kwargs)):
        return "it adds its input to its result"
    if node.kwargs.get("resize"):
        return "it reads a resized map"
    if front.kwargs.get("tail_weight") is not None:
        return "the packed layer in front has a classifier behind it"
    if any(not _is_plain(s) for s in (spec, before)) or spec.quantizer.ranges:
        return "kernels of one of the two layers have no bits of their own"
    native, behind = kernels_of(program, front), kernels_of(program, node)
    if not isinstance(native, NativeLayer) or not isinstance(behind, NativeLayer) or not native.whole:
        return "torch computes one of the two layers, or a part of it"
    shape = shape_of(result)
    if native.depthwise and scales_differ(before) and shape[:1] != (1,):
        return "the packed layer in front computes one image at a time"
    prepared = behind.prepared(shape)
    if not all(shape) or prepared.conv is None:
        return "the map is empty"
    plane = prepared.pack.plane
    return [*shape, plane.groups, plane.border_h, plane.border_w]


def _is_plain(spec: PackedSpec) -> bool:
    """Whether a layer is one convolution of maps (N, C, H, W)."""
    return spec.kind == "conv" and len(spec.kernel) == 2 and not spec.sum_of_binary


def _rewrite(program: ProgramGraph, node: fx.Node, front: fx.Node, result: fx.Node, plane: list[int]) -> None:
    weights, vectors = (program.tensor(value) for value in node.args[1:3])
    if weights is None or vectors is None:
        raise RuntimeError("a layer whose numbers are not known")
    data = LayerData(spec=spec_of_text(str(node.args[3])), bits=weights, vectors=vectors)
    given: dict[str, Any] = {"next_plane": plane}
    for name, vector in quantizer_arguments(data).items():
        given[f"next_{name}"] = program.constant(vector.detach().contiguous().clone(), f"next_{name}")
    front.kwargs = {**front.kwargs, **given}
    node.kwargs = {**node.kwargs, "plane": plane}
    val = result.meta["val"]
    words = val.new_empty((ops.plane_words(plane),), dtype=val.dtype).int()
    result.meta["val"] = words
    front.meta["val"] = (words, front.meta["val"][1])
