"""The results of steps on fake tensors, which are not run where the shape follows from the arguments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from binarize.conv_sizes import conv_size
from binarize.graph.trace.roles import Role, module_role


def result_of(fake: bool, role: Role, original: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of a step; on fake tensors, it is not run where the shape follows from the arguments."""
    module = getattr(original, "__self__", None)
    empty_result = getattr(module, "empty_result", None)  # of a packed layer, which takes a hundred steps
    if fake and empty_result is not None and args and isinstance(args[0], Tensor):
        empty = empty_result(*args, **kwargs)
        return original(*args, **kwargs) if empty is None else empty
    if fake and len(args) == 1 and not kwargs and isinstance(args[0], Tensor):
        x = args[0]
        if isinstance(module, nn.Linear) and x.dim() and x.shape[-1] == module.in_features:
            return x.new_empty((*x.shape[:-1], module.out_features))
        if (shape := _convolved(module, x)) is not None:
            return x.new_empty(shape)
        kept = role in ("norm", "act", "drop", "scale") and _keeps_shape(getattr(module, "act", None))
        if kept and not getattr(module, "inplace", False):
            return torch.empty_like(x)
    return original(*args, **kwargs)


def _keeps_shape(fused: Any) -> bool:
    """Whether what a norm holds beside itself, timm's `act`, is not a module, or keeps the shape."""
    return not isinstance(fused, nn.Module) or module_role(fused) in ("act", "identity")


def _convolved(module: Any, x: Tensor) -> tuple[int, ...] | None:
    """The shape that one of torch's own convolutions gives, if it follows from the arguments."""
    if type(module) not in (nn.Conv1d, nn.Conv2d, nn.Conv3d) or isinstance(module.padding, str):
        return None
    fits = x.dim() == len(module.kernel_size) + 2 and x.shape[1] == module.in_channels
    if not fits or x.dtype != module.weight.dtype or not x.is_contiguous():
        return None
    geometry = (module.kernel_size, module.stride, tuple((p, p) for p in module.padding), module.dilation)
    sizes = conv_size(x.shape[2:], *geometry)
    return (x.shape[0], module.out_channels, *sizes) if min(sizes) > 0 else None
