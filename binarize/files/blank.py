"""Building a model whose weights will all be replaced, without drawing the numbers to start from."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
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
        target = args[0] if args else kwargs.get("tensor")  # by keyword: the functions of torch.nn.init
        fills = func in _RANDOM or getattr(func, "__module__", None) == "torch.nn.init"
        return target if fills and isinstance(target, nn.Parameter) else func(*args, **kwargs)
