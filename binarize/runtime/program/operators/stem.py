"""A float stem: one step of the library."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from binarize.conv_sizes import conv_size
from binarize.native import structs
from binarize.native.epilogue import Epilogue
from binarize.runtime import ops
from binarize.runtime.ops.arguments import activation_of_arguments
from binarize.runtime.program.lowering import Lowering
from binarize.runtime.program.operators.registry import lowers
from binarize.runtime.program.operators.views import dense


@lowers(ops.stem)
def stem(
    lowering: Lowering,
    node: fx.Node,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm: Sequence[Tensor | None],
    eps: float,
    activation: Sequence[Tensor | None],
    bounds: Sequence[float],
    stride: Sequence[int],
    padding: Sequence[int],
    pool: Sequence[int],
    with_sums: bool = False,
    as_bf16: bool = False,
) -> Any:
    """One step; tensors are read where they lie."""
    given = [x, weight, *(t for t in (bias, *norm) if t is not None)]
    if not lowering.is_constant(activation) or any(t.dtype != torch.float32 for t in given):
        return NotImplemented
    shape = tuple(node.meta["val"][0].shape)
    outputs, _, kh, kw = weight.shape
    pads = tuple((p, p) for p in padding)
    size = conv_size(x.shape[2:], (kh, kw), stride, pads, (1, 1))
    plane = structs.PlaneShape(len(x), *x.shape[2:], x.shape[1], 1, *padding)
    geometry = structs.ConvShape(plane, outputs, kh, kw, *stride, *padding, 1, 1, *size)
    second = activation_of_arguments(activation, bounds)
    epilogue = Epilogue() if second is None else Epilogue(first=second)
    epilogue = epilogue.checked(len(x), outputs, size)
    out = lowering.placed_or_empty(node, shape, torch.bfloat16 if as_bf16 else torch.float32)
    described = epilogue.struct(torch.empty(1, 1, 1, 1, device="cpu"))
    if bias is not None:
        lowering.point(described, "add", dense(lowering, bias))
    step = structs.StemStep(shape=ctypes.pointer(geometry))
    lowering.point(step, "weights", dense(lowering, weight))
    n, c, h, w = x.stride()
    step.x = structs.Map(None, n, h, w, c)
    lowering.point(step.x, "data", x)
    if norm:
        described_norm = structs.Norm(eps=eps)
        for name, vector in zip(("mean", "variance", "weight", "bias"), norm, strict=True):
            lowering.point(described_norm, name, None if vector is None else dense(lowering, vector))
        step.norm = ctypes.pointer(described_norm)
    if pool:
        step.pool = ctypes.pointer(structs.Pool(*pool, *shape[2:]))
    lowering.map(described.out, out)
    sums = lowering.rows((shape[0], shape[1]) if with_sums else (0,))
    if with_sums:
        lowering.point(described, "sums", sums)
    step.epilogue = ctypes.pointer(described)
    lowering.hold(geometry, epilogue, described)
    lowering.native("stem", step)
    return out, sums
