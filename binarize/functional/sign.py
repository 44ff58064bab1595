"""The sign function and the surrogate gradients that let networks train through it.

`sign(x) = +1 if x >= 0 else -1`: two values only, because only two values fit in one bit. So
`sign(0) = sign(-0.0) = +1`. A NaN may give either value: here its sign bit decides, packed layers give -1.

The surrogates are written as one fused pass each and in place on their own temporary: a training
step of a binary network is bound by memory traffic, not by arithmetic.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# hardtanh_backward gives 0 at the bounds themselves; the definition gives 1 for abs(x) <= 1. With bounds one
# step outside of 1 the gradient is 1 on exactly the closed interval. The step differs between dtypes, hence
# one bound for each.
_OUTSIDE = {dtype: 1.0 + torch.finfo(dtype).eps for dtype in (torch.half, torch.bfloat16, torch.float)}
_OUTSIDE[torch.double] = math.nextafter(1.0, 2.0)


def sign(x: Tensor, magnitude: Tensor | None = None, *, positive_zeros: bool = False) -> Tensor:
    """The sign of each element times `magnitude`, the sign of 0 being +1.

    Args:
        x: any shape, floating point.
        magnitude: non-negative, broadcastable to `x`; 1 if not given.
        positive_zeros: `x` holds no -0.0 (see `shift`), which saves a pass over it.

    Returns:
        Same shape, dtype and memory format as `x`.
    """
    if magnitude is None:
        magnitude = torch.ones((), dtype=x.dtype, device=x.device)
    if torch.compiler.is_exporting():  # ONNX has no copysign
        return torch.where(x >= 0, magnitude, -magnitude)
    # copysign is one vectorized pass, an order of magnitude faster than where(x >= 0, ...) on a CPU; it takes
    # the sign bit, so -0.0 has to become +0.0 first.
    return torch.copysign(magnitude, x) if positive_zeros else sign_(x + 0.0, magnitude)


def sign_(x: Tensor, magnitude: Tensor) -> Tensor:
    """The same into `x`, a temporary of the caller without -0.0: the memory of a fresh tensor costs more."""
    # out= takes part in neither compilation nor autograd, and tensor subclasses (fake ones) are slow with it.
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or type(x) is not Tensor:
        return torch.copysign(magnitude, x)
    return torch.copysign(magnitude, x, out=x)


def shift(x: Tensor, threshold: Tensor) -> Tensor:
    """The difference `x - threshold` without a -0.0 in it, so that its sign bits are its signs."""
    return x - to_subtract(threshold)


def to_subtract(threshold: Tensor) -> Tensor:
    """`threshold` with -0.0 for 0, for `shift`: of +0.0, x = -0.0 would keep its sign."""
    return torch.where(threshold == 0, -0.0, threshold)


def clip_gradient(grad: Tensor, x: Tensor, *, out: Tensor | None = None) -> Tensor:
    """`grad` where abs(x) <= 1, else 0: the gradient of clamp(x, -1, 1) (BinaryNet; ReActNet weights).

    `out`: where to, possibly `grad` itself; None for a new tensor.
    """
    bound = _OUTSIDE.get(x.dtype, 1.0)
    if out is not None:
        return torch.ops.aten.hardtanh_backward.grad_input(grad, x, -bound, bound, grad_input=out)
    return torch.ops.aten.hardtanh_backward(grad, x, -bound, bound)


def approx_gradient(grad: Tensor, x: Tensor, scale: Tensor | None = None, *, owned: bool = False) -> Tensor:
    """`grad * scale * max(0, 2 - 2 abs(x))`: the piecewise quadratic surrogate of Bi-Real Net.

    Args:
        grad: shape of `x`.
        x: what the sign was taken of.
        scale: non-negative, broadcastable to `x`; 1 if not given.
        owned: `x` is a temporary of the caller and may be overwritten.
    """
    inside = (x.abs_() if owned else x.abs()).clamp_(max=1)
    return torch.addcmul(grad, grad, inside, value=-1).mul_(2 if scale is None else 2 * scale)
