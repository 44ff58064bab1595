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


def resize(program: ProgramGraph) -> None:
    """Interpolations whose result only a packed layer reads."""
    for node in program.calls(aten.upsample_bilinear2d.vec):
        user: Any = only_user(node)
        if user is None or user.target is not ops.layer or user.args[0] is not node:
            program.missed("resize", node, "its result is read by others than one packed layer")
            continue
        reason = _why_not(node, user)
        if reason:
            program.missed("resize", node, reason)
            continue
        small, _, align = node.args[:3]
        user.args = (small, *user.args[1:])
        user.kwargs = {**user.kwargs, "resize": [*shape_of(node)[2:], int(bool(align))]}
        program.taken("resize", user)


def _why_not(node: fx.Node, layer: fx.Node) -> str:
    if not is_float(node):
        return "its dtype is not float32"
    if len(node.args) > 3 and node.args[3] is not None:
        return "it is asked for by scale factors"
    if not can_interpolate(spec_of_text(str(layer.args[3]))):
        return "kernels of this kind of layer cannot interpolate their input"
    return ""
