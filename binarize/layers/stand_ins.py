"""Placeholders for the weight and bias of a replaced float layer: shape, dtype and device, but no values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from binarize.errors import TrainingError

# Functions that need a tensor's properties, not its values.
QUESTIONS = {
    *("size", "dim", "ndimension", "numel", "nelement", "stride", "is_contiguous", "__len__", "get_device"),
    *("is_floating_point", "is_complex", "is_signed", "element_size", "requires_grad_"),
}
_GETTERS = {
    *(
        "shape",
        "dtype",
        "device",
        "ndim",
        "layout",
        "requires_grad",
        "is_leaf",
        "grad",
        "grad_fn",
        "itemsize",
    ),
    *("is_cpu", "is_cuda", "is_meta", "is_mps", "is_sparse", "is_quantized", "is_nested", "nbytes"),
}
# Functions that take dtype and device from a tensor: the first argument, any argument, or with its shape too.
_FACTORIES = {"new_zeros", "new_ones", "new_empty", "new_full", "new_tensor"}
_CONVERSIONS = {"to", "type_as"}
_LIKE = {"zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like"}


class AbsentTensor(Tensor):
    """Shape, dtype and device of a tensor that no longer exists. It uses no memory and refuses computation.

    Args:
        shape: of the tensor.
        like: with its dtype and device.

    Raises:
        TrainingError: from every function that needs its values.
    """

    @staticmethod
    def __new__(cls, shape: Sequence[int], like: Tensor) -> AbsentTensor:  # noqa: D102 - see the class
        made: Any = Tensor._make_wrapper_subclass(cls, tuple(shape), dtype=like.dtype, device=like.device)
        return made

    def __init__(self, shape: Sequence[int], like: Tensor) -> None:
        super().__init__()

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        with torch._C.DisableTorchFunctionSubclass():
            return f"AbsentTensor({tuple(self.shape)}, dtype={self.dtype}, device={str(self.device)!r})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        own = bool(args) and isinstance(args[0], AbsentTensor)
        getter = getattr(getattr(func, "__self__", None), "__name__", "") if name == "__get__" else ""
        with torch._C.DisableTorchFunctionSubclass():
            if name in QUESTIONS or getter in _GETTERS:
                return func(*args, **kwargs)
            if name == "detach" or getter == "data":
                return args[0]
            if name in _FACTORIES or name in _LIKE or (name in _CONVERSIONS and not own):
                args, kwargs = tree_map(_substitute(shaped=name in _LIKE), (args, kwargs))
                return func(*args, **kwargs)
        raise TrainingError(
            f"{name.strip('_') or 'a function'}(): the weight and bias of a packed layer, or of one that is "
            "built of several, are gone; the placeholder has a shape, a dtype and a device only."
        )

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise TrainingError(f"{func}: the weight and bias of the float layer are gone.")


class DroppedBias(AbsentTensor):
    """The bias of a float layer whose method has none, because a norm follows: what is written to it is lost.

    So functions that initialize every convolution with a bias keep working on a converted network.
    """

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        target = args[0] if args else (kwargs or {}).get("tensor")  # torch.nn.init passes it by name
        own = isinstance(target, DroppedBias)
        in_place = name.endswith("_") and not name.endswith("__") and name not in QUESTIONS
        if own and (in_place or name == "__set__"):
            return target
        return super().__torch_function__(func, types, args, kwargs)


def outputs_of(layer: nn.Module) -> int:
    """Output channels of a convolution or linear layer."""
    known: Any = layer
    return known.out_features if hasattr(layer, "out_features") else known.out_channels


def _substitute(*, shaped: bool) -> Any:
    def replaced(value: Any) -> Any:
        if not isinstance(value, AbsentTensor):
            return value
        return torch.empty(value.shape if shaped else (0,), dtype=value.dtype, device=value.device)

    return replaced


class StandsForLayer(nn.Module):
    """A module that replaces a float layer and has no `weight` and `bias` like that layer's.

    Attributes:
        float_shape: of the float layer's weight.
        float_bias: whether the float layer has a bias.
    """

    float_shape: tuple[int, ...] = ()
    float_bias: bool = False

    @property
    def weight(self) -> Tensor:
        """Its shape, dtype and device (`AbsentTensor`)."""
        return AbsentTensor(self.float_shape, self._reference())

    @property
    def bias(self) -> Tensor | None:
        """(Cout,), likewise, or None where the float layer has none."""
        return AbsentTensor((outputs_of(self),), self._reference()) if self.float_bias else None

    def _reference(self) -> Tensor:
        """A tensor with the dtype and device that the weight would have."""
        for tensor in (*self.parameters(), *self.buffers()):
            if tensor.is_floating_point():
                return tensor
        return torch.empty(0)
