"""Chains of elementwise operators: one step of the library."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from binarize.native import structs
from binarize.runtime import ops
from binarize.runtime.pointwise_code import Code
from binarize.runtime.program.lowering import Lowering, strides_of
from binarize.runtime.program.operators.registry import lowers, strides_like
from binarize.runtime.program.operators.views import dense

_DIMS = 4  # image, row, pixel, channel


@lowers(ops.pointwise)
def pointwise(
    lowering: Lowering,
    node: fx.Node,
    operands: Sequence[Tensor],
    vectors: Sequence[Tensor],
    code: str,
    with_sums: bool = False,
) -> Any:
    """One step where all operands can be seen as maps of one shape with channels side by side."""
    known = Code.of_text(code)
    shape = tuple(node.meta["val"][0].shape)
    if 0 in shape:
        return NotImplemented
    channel = known.dim % len(shape) if vectors or with_sums else None
    out = lowering.placed(node)
    if out is None:
        like = operands[known.like]
        # also of a slice, if it repeats nothing: its dims have an order
        alike = tuple(like.shape) == shape and _distinct(like)
        strides = strides_like(like, shape) if alike else strides_of(shape)
        if (wanted := lowering.wanted.get(node)) is not None:
            made = torch.empty_strided(shape, wanted, device="meta")
            fits = as_maps([*operands, made], shape, channel, keep_images=with_sums) is not None
            strides = wanted if fits else strides
        out = lowering.strided(shape, strides)
    maps = as_maps([*operands, out], shape, channel, keep_images=with_sums)
    if maps is None or any(t.dtype != torch.float32 for t in (*operands, *vectors)):
        return NotImplemented
    size = maps[0].shape
    step = structs.PointwiseStep(*size)
    given = (structs.Map * len(operands))()
    for structure, operand in zip(given, maps[:-1], strict=True):
        _point(lowering, structure, operand)
    instructions = _instructions(lowering, known, vectors)
    result = (structs.Result * 1)(structs.Result(known.result))
    _point(lowering, result[0].out, maps[-1])
    sums = lowering.rows((shape[0], shape[channel or 0]) if with_sums else (0,))
    if with_sums:
        lowering.point(result[0], "sums", sums)
    step.operands, step.instructions, step.results = len(given), len(instructions), 1
    step.operand = ctypes.cast(given, ctypes.POINTER(structs.Map))
    step.instruction = ctypes.cast(instructions, ctypes.POINTER(structs.Instruction))
    step.result = ctypes.cast(result, ctypes.POINTER(structs.Result))
    lowering.hold(given, instructions, result, vectors)
    lowering.native("pointwise", step)
    return out, sums


def as_maps(
    tensors: Sequence[Tensor], shape: Sequence[int], channel: int | None, *, keep_images: bool = False
) -> list[Tensor] | None:
    """The tensors as (image, row, pixel, channel), broadcast to one shape; None where that does not go.

    Args:
        tensors: the last one is the result, whose dims come in the order of its strides.
        shape: to which all broadcast.
        channel: the dim that has to become the last one, unmerged; None for any.
        keep_images: the first dim has to stay the first one, unmerged.
    """
    wide = [t.expand(tuple(shape)) for t in tensors]
    order = sorted(range(len(shape)), key=lambda d: (-wide[-1].stride(d), d))
    order = [d for d in order if shape[d] != 1 or d == channel or (keep_images and d == 0)]
    if channel is not None:
        order = [d for d in order if d != channel] + [channel]
    if keep_images:
        order = [0] + [d for d in order if d != 0]
    groups: list[list[int]] = []
    for d in order or [0]:
        outer = groups[-1][-1] if groups and d != channel else None
        if outer is None or (keep_images and outer == 0) or not all(_merge(t, outer, d) for t in wide):
            groups.append([d])
        else:
            groups[-1].append(d)
    if len(groups) > _DIMS:
        return None
    sizes = [math.prod(shape[d] for d in group) for group in groups]
    pad = _DIMS - len(groups)
    at = 1 if keep_images and groups else 0  # dims of size 1 stand behind the images
    made: list[Tensor] = []
    for t in wide:
        strides = [t.stride(group[-1]) for group in groups]
        if strides[-1] not in (0, 1) and sizes[-1] > 1:
            return None
        full = [*strides[:at], *[0] * pad, *strides[at:]]
        whole = [*sizes[:at], *[1] * pad, *sizes[at:]]
        made.append(t.as_strided(whole, full, t.storage_offset()))
    return made if made[-1].numel() == 0 or _distinct(made[-1]) else None


def _merge(t: Tensor, outer: int, inner: int) -> bool:
    return t.stride(outer) == t.stride(inner) * t.shape[inner]


def _distinct(t: Tensor) -> bool:
    return all(s != 0 or n == 1 for s, n in zip(t.stride(), t.shape, strict=True))


def _point(lowering: Lowering, structure: structs.Map, maps: Tensor) -> None:
    structure.image, structure.row, structure.pixel, structure.channel = maps.stride()
    if maps.shape[3] == 1:
        structure.channel = 1
    lowering.point(structure, "data", maps)


def _instructions(
    lowering: Lowering, code: Code, vectors: Sequence[Tensor]
) -> ctypes.Array[structs.Instruction]:
    made = (structs.Instruction * len(code.instructions))()
    for structure, step in zip(made, code.instructions, strict=True):
        structure.op, structure.to, structure.a = structs.OPS[step.op], step.to, step.a
        structure.b, structure.p, structure.q = max(step.b, 0), step.p, step.q
        for i, vector in enumerate(step.vectors):
            if vector >= 0:
                lowering.point(structure, "v", dense(lowering, vectors[vector]), i)
    return made
