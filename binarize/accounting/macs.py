"""Multiply-accumulates of tensor operations, from the shapes that they see."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

from torch import Tensor

from binarize.accounting.work import ELEMENTWISE, Work, WorkRule


def _convolution(args: tuple[Any, ...], out: Tensor) -> Work:
    x, weight, transposed, groups = args[0], args[1], args[6], args[8]
    # weight: (Cout, Cin / groups, ...), transposed (Cin, Cout / groups, ...). Each element of the side with
    # whole filters is multiplied by all weights but those of the other channels in dim 0.
    side = x if transposed else out
    return Work(
        "conv",
        macs=side.numel() * (weight.numel() // weight.shape[0]),
        groups=groups,
        elements=out.numel(),
        positions=out.numel() // max(1, out.shape[1]),
        channels=x.shape[1],
        inputs=x.numel(),
    )


def _product(first: int) -> WorkRule:
    """The work of a matrix product whose left factor is argument `first`: out = left (..., k) @ right."""

    def work(args: tuple[Any, ...], out: Tensor) -> Work:
        left, right = args[first], args[first + 1]
        columns = right.shape[-1] if right.dim() > 1 else 1
        return Work(
            "matmul",
            macs=left.numel() * columns,
            elements=out.numel(),
            positions=out.numel() // max(1, out.shape[-1] if out.dim() else 1),
            channels=left.shape[-1],
            inputs=left.numel(),
        )

    return work


def _linear(args: tuple[Any, ...], out: Tensor) -> Work:
    x, weight = args[:2]
    return Work(
        "linear",
        macs=x.numel() * weight.shape[0],
        elements=out.numel(),
        positions=out.numel() // out.shape[-1],
        channels=x.shape[-1],
        inputs=x.numel(),
    )


def _attention(args: tuple[Any, ...], out: Tensor) -> Work:
    query, key, value = args[:3]  # (N, heads, L, E), (N, heads, S, E), (N, heads, S, Ev)
    rows = math.prod(query.shape[:-1])
    macs = rows * key.shape[-2] * (query.shape[-1] + value.shape[-1])
    return Work("attention", macs=macs, elements=out.numel(), positions=rows)


_SDPA = ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")

WORK: dict[str, WorkRule] = {
    "convolution": _convolution,
    "_convolution": _convolution,
    "linear": _linear,
    **dict.fromkeys(("mm", "bmm", "matmul", "mv", "dot", "vdot"), _product(0)),
    **dict.fromkeys(("addmm", "baddbmm", "addbmm", "addmv"), _product(1)),
    **dict.fromkeys((f"_scaled_dot_product_{name}" for name in _SDPA), _attention),
    **ELEMENTWISE,
}
"""Rules by the name of the aten operation (in-place ones without their underscore)."""

_HOLDS_MACS = re.compile(
    r"fft|rnn|lstm|gru|conv(?!ert)|cdist|_dist$|trilinear|multi_head|transformer_encoder"
    r"|matmul|scaled_dot_product|(^|_)(mm|bmm|addmm)(_|$)"
    r"|cholesky|_svd|_eig|inverse|triangular_solve|linalg_(solve|inv|lu|qr|svd|eig|lstsq|matrix|pinv|det)"
)
_QUIET_SPACES = {"aten", "prim", "prims", "profiler", "rngprims", "debugprims", "_profiler"}
_CELLS = "_thnn_fused"  # elementwise part of a recurrent cell, whose products are operations of their own


def work_of(space: str, name: str, args: tuple[Any, ...], out: Any) -> Work | str | None:
    """The work of an operation, or why it cannot be counted; None for one without multiply-accumulates.

    Args:
        space: namespace of the operation, `aten` for torch's own.
        name: its name.
        args: its positional arguments, tensors of any kind (also without data).
        out: what it returned.
    """
    first = out[0] if isinstance(out, (tuple, list)) and out else out
    if space == "aten":
        rule = WORK.get(name) or WORK.get(name.removesuffix("_"))
        if rule is not None:
            work = rule(args, first) if isinstance(first, Tensor) else None
            return work and replace(work, name=name.removesuffix("_"))
        if _HOLDS_MACS.search(name) and not name.startswith(_CELLS):
            return f"no rule counts the operation aten.{name}"
        return None
    return None if space in _QUIET_SPACES else f"no rule counts the custom operation {space}::{name}"
