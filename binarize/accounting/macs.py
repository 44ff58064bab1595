"""Multiply-accumulates of tensor operations, from the shapes that they see."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

Kind = Literal["conv", "linear", "matmul", "attention", "norm", "activation", "pool"]


@dataclass(frozen=True)
class Work:
    """What one tensor operation does.

    Attributes:
        kind: `linear` is a `matmul` one factor of which is a parameter.
        macs: multiply-accumulates, groups respected.
        groups: of a convolution; macs * groups is the count of the dense one.
        elements: of the tensor that an elementwise rule counts: the output, of a pooling the input.
        positions: output elements per channel (over all images).
        name: of the operation.
    """

    kind: Kind
    macs: int = 0
    groups: int = 1
    elements: int = 0
    positions: int = 0
    name: str = ""


def _convolution(args: tuple[Any, ...], out: Tensor) -> Work:
    x, weight, transposed, groups = args[0], args[1], args[6], args[8]
    # weight: (Cout, Cin / groups, ...), transposed (Cin, Cout / groups, ...). Each element of the side with
    # whole filters meets all weights but those of the other channels in dim 0.
    side = x if transposed else out
    macs = side.numel() * (weight.numel() // weight.shape[0])
    return Work("conv", macs, groups, out.numel(), out.numel() // max(1, out.shape[1]))


def _product(first: int) -> Callable[[tuple[Any, ...], Tensor], Work]:
    """Of a matrix product whose left factor is argument `first`: out = left (..., k) @ right."""

    def work(args: tuple[Any, ...], out: Tensor) -> Work:
        inner = args[first].shape[-1]
        macs = math.prod(args[first].shape[:-1]) * inner * _columns(args[first + 1])
        return Work("matmul", macs, 1, out.numel(), out.numel() // max(1, out.shape[-1] if out.dim() else 1))

    return work


def _columns(right: Tensor) -> int:
    return right.shape[-1] if right.dim() > 1 else 1


def _linear(args: tuple[Any, ...], out: Tensor) -> Work:
    return Work("linear", args[0].numel() * args[1].shape[0], 1, out.numel(), out.numel() // out.shape[-1])


def _attention(args: tuple[Any, ...], out: Tensor) -> Work:
    query, key, value = args[:3]  # (N, heads, L, E), (N, heads, S, E), (N, heads, S, Ev)
    rows = math.prod(query.shape[:-1])
    return Work("attention", rows * key.shape[-2] * (query.shape[-1] + value.shape[-1]), 1, out.numel(), rows)


def _elementwise(kind: Kind) -> Callable[[tuple[Any, ...], Tensor], Work]:
    def work(args: tuple[Any, ...], out: Tensor) -> Work:
        channels = out.shape[1] if out.dim() > 1 else 1
        return Work(kind, 0, 1, out.numel(), out.numel() // max(1, channels))

    return work


def _pooling(args: tuple[Any, ...], out: Tensor) -> Work:
    return Work("pool", 0, 1, args[0].numel(), out.numel() // max(1, out.shape[1]))


_SDPA = ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")
_POOLS = (
    "avg_pool2d",
    "avg_pool3d",
    "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d",
    "max_pool2d_with_indices",
)

WORK: dict[str, Callable[[tuple[Any, ...], Tensor], Work]] = {
    "convolution": _convolution,
    "_convolution": _convolution,
    "linear": _linear,
    **dict.fromkeys(("mm", "bmm", "matmul", "mv", "dot", "vdot"), _product(0)),
    **dict.fromkeys(("addmm", "baddbmm", "addbmm", "addmv"), _product(1)),
    **dict.fromkeys((f"_scaled_dot_product_{name}" for name in _SDPA), _attention),
    **dict.fromkeys(
        (
            "native_batch_norm",
            "_native_batch_norm_legit",
            "_native_batch_norm_legit_no_training",
            "_batch_norm_no_update",
            "cudnn_batch_norm",
            "miopen_batch_norm",
            "native_layer_norm",
            "native_group_norm",
            "_fused_rms_norm",
        ),
        _elementwise("norm"),
    ),
    **dict.fromkeys(
        (
            "_prelu_kernel",
            "_softmax",
            "celu",
            "elu",
            "gelu",
            "hardsigmoid",
            "hardswish",
            "hardtanh",
            "leaky_relu",
            "mish",
            "prelu",
            "relu",
            "sigmoid",
            "silu",
            "softplus",
            "tanh",
        ),
        _elementwise("activation"),
    ),
    **dict.fromkeys(_POOLS, _pooling),
}
"""By the name of the aten operation (in-place ones without their underscore)."""

_HOLDS_MACS = re.compile(
    r"fft|rnn|lstm|gru|conv(?!ert)|cdist|_dist$|trilinear|multi_head|transformer_encoder"
    r"|matmul|scaled_dot_product|(^|_)(mm|bmm|addmm)(_|$)"
    r"|cholesky|_svd|_eig|inverse|triangular_solve|linalg_(solve|inv|lu|qr|svd|eig|lstsq|matrix|pinv|det)"
)
_QUIET_SPACES = {"aten", "prim", "prims", "profiler", "rngprims", "debugprims", "_profiler"}
_CELLS = "_thnn_fused"  # elementwise part of a recurrent cell, whose products are operations of their own


def work_of(space: str, name: str, args: tuple[Any, ...], out: Any) -> Work | str | None:
    """What an operation does, why that cannot be counted, or None for one without multiply-accumulates.

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
            return (
                replace(rule(args, first), name=name.removesuffix("_")) if isinstance(first, Tensor) else None
            )
        if _HOLDS_MACS.search(name) and not name.startswith(_CELLS):
            return f"no rule counts the operation aten.{name}"
        return None
    return None if space in _QUIET_SPACES else f"no rule counts the custom operation {space}::{name}"
