"""What the operators share: how torch gets to know them, and sums of a result over positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_library = torch.library.Library("binarize", "FRAGMENT")


def register(
    schema: str, function: Callable[..., Any], *, fake: Callable[..., Any] | None = None
) -> torch._ops.OpOverload:
    """The operator of that schema.

    Args:
        schema: its name and arguments, as torch writes them.
        function: computes it, on the CPU.
        fake: gives an empty result of the same shape; None if `function` can do that itself.
    """
    name = schema.partition("(")[0]
    _library.define(schema)
    _library.impl(name, function, "CPU")
    torch.library.register_fake(f"binarize::{name}", fake or function, lib=_library)
    return getattr(torch.ops.binarize, name).default


def widened(x: Tensor) -> Tensor:
    """A map that a program stored as bfloat16, as float32."""
    return x.float() if x.dtype == torch.bfloat16 else x


def channel_sums(y: Tensor, dim: int = 1) -> Tensor:
    """(N, C): sums over positions of (N, C, ...) or, with dim -1, (N, ..., C)."""
    return y.movedim(dim, 1).unsqueeze(-1).flatten(2).sum(2)  # also of no images, and of no positions
