"""Building a model whose weights will all be replaced, without drawing the numbers to start from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_RANDOM = {
    Tensor.normal_,
    Tensor.uniform_,
    Tensor.bernoulli_,
    Tensor.erfinv_,  # the slow half of drawing from a truncated normal distribution
}


class WithoutStartValues(TorchFunctionMode):
    """While it is active, parameters are left as the allocator gave them: random fills do nothing.

    Half of the time of building a large network is spent on its random numbers.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if args and _is_parameter(args[0]):
            filled = func in _RANDOM or getattr(func, "__module__", None) == "torch.nn.init"
            if filled:
                return args[0]
        return func(*args, **kwargs)


def _is_parameter(value: Any) -> bool:
    return isinstance(value, torch.nn.Parameter)
