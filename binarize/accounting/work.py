"""The work of a tensor operation, and the rules for work other than multiply-accumulates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

Kind = Literal["conv", "linear", "matmul", "attention", "norm", "activation", "pool", "add", "mul"]


@dataclass(frozen=True)
class Work:
    """The work of one tensor operation.

    Attributes:
        kind: `linear` is a `matmul` one factor of which is a parameter; `add` and `mul` are of two tensors.
        macs: multiply-accumulates, groups respected.
        groups: of a convolution; macs * groups is the count of the dense one.
        elements: of the output.
        positions: output elements per channel (over all images).
        channels: of the input of a convolution or product, in all groups.
        inputs: elements of the input of a convolution, product or pooling.
        window: input positions per output position of an adaptive pooling, rounded down per dim; else 0.
        name: of the operation.
    """

    kind: Kind
    macs: int = 0
    groups: int = 1
    elements: int = 0
    positions: int = 0
    channels: int = 0
    inputs: int = 0
    window: int = 0
    name: str = ""


WorkRule = Callable[[tuple[Any, ...], Tensor], Work | None]
"""From the arguments of an operation and what it returned; None if there is nothing to count."""


def _channelwise(kind: Kind, out: Tensor, *, inputs: int = 0, window: int = 0) -> Work:
    positions = out.numel() // max(1, out.shape[1] if out.dim() > 1 else 1)
    return Work(kind, elements=out.numel(), positions=positions, inputs=inputs, window=window)


def _elementwise(kind: Kind) -> WorkRule:
    return lambda args, out: _channelwise(kind, out)


def _pooling(args: tuple[Any, ...], out: Tensor) -> Work:
    return _channelwise("pool", out, inputs=args[0].numel())


def _adaptive_pooling(dims: int) -> WorkRule:
    def work(args: tuple[Any, ...], out: Tensor) -> Work:
        sizes = zip(args[0].shape[-dims:], out.shape[-dims:], strict=True)
        window = math.prod(n // m for n, m in sizes if m)
        return _channelwise("pool", out, inputs=args[0].numel(), window=window)

    return work


def _mean(args: tuple[Any, ...], out: Tensor) -> Work | None:
    """A mean over all positions counts as adaptive pooling to one: torch computes that as a mean."""
    x, dims = args[0], args[1] if len(args) > 1 else None
    if x.dim() < 3 or not isinstance(dims, (list, tuple)):
        return None
    if sorted(d % x.dim() for d in dims) != list(range(2, x.dim())):
        return None
    return Work(
        "pool",
        elements=out.numel(),
        positions=x.shape[0],
        inputs=x.numel(),
        window=math.prod(x.shape[2:]),
    )


def _of_two(kind: Literal["add", "mul"]) -> WorkRule:
    """The sum of two maps of one shape, images aside; the product of two tensors, such as a layer scale."""

    def work(args: tuple[Any, ...], out: Tensor) -> Work | None:
        left, right = args[:2]
        maps = isinstance(left, Tensor) and isinstance(right, Tensor) and out.is_floating_point()
        if (
            not maps
            or out.is_nested
            or out.dim() < 2
            or (kind == "add" and left.shape[1:] != right.shape[1:])
        ):
            return None
        return _channelwise(kind, out)

    return work


_NORMS = (
    "native_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "_batch_norm_no_update",
    "cudnn_batch_norm",
    "miopen_batch_norm",
    "native_layer_norm",
    "native_group_norm",
    "_fused_rms_norm",
)
_ACTIVATIONS = (
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
)

ELEMENTWISE: dict[str, WorkRule] = {
    **dict.fromkeys(_NORMS, _elementwise("norm")),
    **dict.fromkeys(_ACTIVATIONS, _elementwise("activation")),
    **dict.fromkeys(("avg_pool2d", "avg_pool3d", "max_pool2d_with_indices"), _pooling),
    "_adaptive_avg_pool2d": _adaptive_pooling(2),
    "_adaptive_avg_pool3d": _adaptive_pooling(3),
    "mean": _mean,
    "add": _of_two("add"),
    "mul": _of_two("mul"),
}
"""Rules by the name of the aten operation (in-place ones without their underscore)."""
