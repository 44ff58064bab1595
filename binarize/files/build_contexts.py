"""Contexts to build a model in whose weights will all be replaced: no start values, bounded memory."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from binarize.errors import FormatError

_RANDOM = {
    Tensor.normal_,
    Tensor.uniform_,
    Tensor.bernoulli_,
    Tensor.erfinv_,  # the slow half of drawing from a truncated normal distribution
}
_FACTORIES = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.arange}
_MOST_TENSORS = 15_000


class WithoutStartValues(TorchFunctionMode):
    """While it is active, parameters are left as the allocator gave them: random fills do nothing.

    Half of the time of building a large network is spent on its random numbers.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        target = args[0] if args else kwargs.get("tensor")  # by keyword: the functions of torch.nn.init
        fills = func in _RANDOM or getattr(func, "__module__", None) == "torch.nn.init"
        return target if fills and isinstance(target, nn.Parameter) else func(*args, **kwargs)


class TooLargeError(FormatError):
    """A file whose header asks for a model far larger than the file."""


class BoundedMemory(TorchFunctionMode):
    """While it is active, no model of unreasonable size can be built: a file's header may ask for anything.

    Args:
        most: how many numbers may be allocated; None, without memory (meta device), for any.

    Attributes:
        exceeded: more was asked for.

    Raises:
        TooLargeError: from the call that asks for more, or that makes one tensor too many.
    """

    def __init__(self, most: int | None) -> None:
        super().__init__()
        self._left = most
        self._calls = _MOST_TENSORS
        self.exceeded = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _FACTORIES:
            self._calls -= 1
            if self._left is not None:
                self._left -= _numbers(func, args, kwargs)
            if self._calls < 0 or (self._left is not None and self._left < 0):
                self.exceeded = True
                raise TooLargeError("its header asks for a model far larger than the file.")
        return func(*args, **kwargs)


def memory_bound(held: int) -> int:
    """How many numbers may be allocated for a model of this size: buffers that no file holds are added."""
    return 20 * held + 50_000_000


def _numbers(func: Any, args: Any, kwargs: Any) -> int:
    """How many numbers a factory would allocate, as far as its arguments say."""
    size = args[:1] if func is torch.full else args
    if size and isinstance(size[0], (tuple, list)):
        size = size[0]
    size = size or kwargs.get("size", ())
    whole = [abs(n) for n in size if isinstance(n, int)]
    return max(whole, default=0) if func is torch.arange else math.prod(whole) if whole else 0
