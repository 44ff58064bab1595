"""Numbers that a constructor reads from small tensors on the meta device, where tensors have no data.

A rate per block is often taken from a tensor: `[x.item() for x in torch.linspace(0, rate, depth)]`, as most
networks of timm 1.0.20 do. Under `torch.device("meta")` such a constructor would fail.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

_SEQUENCES = {torch.linspace, torch.arange, torch.tensor}
_READING = {
    Tensor.item,
    Tensor.tolist,
    Tensor.numpy,
    Tensor.__float__,
    Tensor.__int__,
    Tensor.__bool__,
    Tensor.__index__,
}
_MOST_NUMBERS = 10_000  # of one tensor; a sequence with a number per block is far shorter


def readable_numbers() -> AbstractContextManager[Any]:
    """A context to build a network in; on the meta device, the numbers of its small sequences can be read.

    Of what `linspace`, `arange` and `tensor` give, and of what is computed from that alone, up to 10,000
    numbers are kept beside it. All tensors stay on the meta device. On other devices it does nothing.
    """
    return _Readable() if torch.get_default_device().type == "meta" else contextlib.nullcontext()


class _Readable(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self._numbers = WeakTensorKeyDictionary()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.__iter__:
            return iter(self.__torch_function__(Tensor.unbind, types, args))
        inputs = _tensors((args, kwargs))
        known = all(tensor in self._numbers for tensor in inputs) if inputs else func in _SEQUENCES
        if not known:
            if inputs and func.__name__.endswith("_"):  # in place, from numbers that are not known
                self._numbers.pop(inputs[0], None)
            return func(*args, **kwargs)
        given_args, given_kwargs = tree_map_only(Tensor, lambda t: self._numbers[t], (args, kwargs))
        if func in _READING:
            return func(*given_args, **given_kwargs)
        try:
            result = func(*args, **kwargs)
        except NotImplementedError:  # the shape depends on the numbers: `torch.unique`
            numbers = _on_cpu(func, given_args, given_kwargs)
            result = tree_map_only(Tensor, lambda t: t.to("meta"), numbers)
            self._remember(result, numbers)
        else:
            outputs = _tensors(result)
            if outputs and sum(tensor.numel() for tensor in outputs) <= _MOST_NUMBERS:
                self._remember(result, _on_cpu(func, given_args, given_kwargs))
        return result

    def _remember(self, result: Any, numbers: Any) -> None:
        for tensor, its_numbers in zip(_tensors(result), _tensors(numbers), strict=True):
            if tensor.is_meta:
                self._numbers[tensor] = its_numbers


def _on_cpu(func: Any, args: Any, kwargs: Any) -> Any:
    with torch.device("cpu"):
        return func(*args, **kwargs)


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
