"""A layer behind a bilinear interpolation reads the small map: the large one is never stored."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from binarize.runtime import ops
from binarize.runtime.kernel_support import can_interpolate
from binarize.runtime.layer_data import spec_of_text
from binarize.runtime.program.graph import ProgramGraph, is_float, only_user, shape_of

aten = torch.ops.aten
_OTHERS = (aten.upsample_nearest2d.vec, aten.upsample_bicubic2d.vec, aten._upsample_bilinear2d_aa.vec)


def resize(program: ProgramGraph) -> None:
    """Interpolations whose result only a packed layer reads."""
    for node in program.calls(aten.upsample_bilinear2d.vec):
        user: Any = only_user(node)
        if user is None or user.target is not ops.layer or user.args[0] is not node:
            program.missed("resize", node, "not one packed layer alone reads its result")
            continue
        reason = _why_not(node, user)
        if reason:
            program.missed("resize", node, reason)
            continue
        small, _, align = node.args[:3]
        user.args = (small, *user.args[1:])
        user.kwargs = {**user.kwargs, "resize": [*shape_of(node)[2:], int(bool(align))]}
        program.taken("resize", node)
    for node in program.calls(*_OTHERS):
        user = only_user(node)
        if user is not None and user.target is ops.layer and user.args[0] is node:
            program.missed("resize", node, "packed layers interpolate bilinearly only")


def _why_not(node: fx.Node, layer: fx.Node) -> str:
    if not is_float(node):
        return "its dtype is not float32"
    if len(node.args) > 3 and node.args[3] is not None:
        return "the network gives scale factors, not a size"
    if not can_interpolate(spec_of_text(str(layer.args[3]))):
        return "kernels of this kind of layer cannot interpolate their input"
    return ""
