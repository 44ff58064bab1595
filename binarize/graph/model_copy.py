"""Deep copies of models, also of those that hold results of a computation."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from binarize.errors import ConfigError


class _CopiesOfResults(TorchFunctionMode):
    """While it is active, results of a computation can be copied: as plain tensors of the same values.

    torch refuses to copy tensors with a history. Modules may hold them anywhere, in lists and objects too:
    weight_norm's weight, pruned weights, features of the last forward; the next forward makes new ones.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not Tensor.__deepcopy__:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        if tensor.is_leaf:
            with self:  # others that it holds are copied first, and found there
                copy.deepcopy([tensor.grad, tensor.__dict__], memo)
            return func(tensor, memo)
        return memo.setdefault(id(tensor), tensor.detach().clone())


def copied(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A deep copy, also of modules that hold results of a computation anywhere.

    Args:
        model: to copy.
        memo: the copy of an object of the model, by the object's id.

    Raises:
        ConfigError: the model cannot be copied.
    """
    try:
        with _CopiesOfResults():
            return copy.deepcopy(model, {} if memo is None else memo)
    except Exception as error:  # whatever a custom class does when it is copied
        raise ConfigError(
            f"the given {type(model).__name__} cannot be copied ({type(error).__name__}: {error}); "
            "execute(plan(model), model, copy=False) changes the model itself."
        ) from error


def weight_shape(module: nn.Module) -> tuple[int, ...] | None:
    """The shape of a layer's weight, of whatever it is computed; None if it has none.

    Reading a parametrized weight computes it, and in training mode that may change the layer: spectral norms
    do a step of their power iteration. So a copy of the parametrization computes it.
    """
    if parametrize.is_parametrized(module, "weight"):
        with torch.no_grad():
            weight = copied(module.parametrizations["weight"])()  # type: ignore[index, operator]
    else:
        weight = getattr(module, "weight", None)
    return tuple(weight.shape) if isinstance(weight, Tensor) else None
