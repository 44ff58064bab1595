"""Models that are wrapped, compiled, quantized or no Python any more: unwrapped, or refused with the remedy.

Wrappers and packages are told by the names of their classes and modules: none of them is imported here.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from binarize.errors import ConfigError

_PARALLEL = {"DistributedDataParallel", "DataParallel"}
_PACKED = {"PackedLayer"}
_SHARDED = {"FullyShardedDataParallel", "FSDPModule"}
# Packages whose modules compute with integers, or watch float ones to do so later.
_QUANTIZED = (
    "torch.ao.nn.quantized",
    "torch.ao.nn.qat",
    "torch.ao.nn.intrinsic.quantized",
    "torch.ao.nn.intrinsic.qat",
    "torch.ao.quantization.observer",
    "torch.ao.quantization.fake_quantize",
)


def uncompiled(model: nn.Module) -> nn.Module:
    """What torch.compile was called on; any other model as it is."""
    while any(cls.__name__ == "OptimizedModule" for cls in type(model).__mro__):
        model = model._modules["_orig_mod"] or model
    return model


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside wrappers that add nothing to its state: of torch.compile and data parallelism."""
    while (inner := uncompiled(model)) is not model or _named(model, _PARALLEL):
        model = inner if inner is not model else model._modules["module"] or inner
    return model


def is_compiled(model: nn.Module) -> bool:
    """Whether some part of `model` is compiled, in place or by a wrapper."""
    return any(
        module.__dict__.get("_compiled_call_impl") is not None or uncompiled(module) is not module
        for module in model.modules()
    )


def refuse(model: nn.Module) -> None:
    """Refuse models that no right conversion exists for.

    Raises:
        ConfigError: saying which module of `model` it is, and what to do instead.
    """
    for path, module in model.named_modules():
        where = f"{path} is a {type(module).__name__}" if path else f"model: got a {type(module).__name__}"
        if _named(module, _PARALLEL):
            name = type(module).__name__
            what = f"{path or 'model'}.module"
            raise ConfigError(
                f"{where}, which knows the float model's parameters only: convert {what} and wrap the "
                f"result, {name}(binarize.apply({what}, ...))."
            )
        if _named(module, _SHARDED):
            raise ConfigError(
                f"{where}, whose parameters are shards: convert the whole model first, then shard the result."
            )
        if _named(module, _PACKED):
            raise ConfigError(
                f"{where}: the model is deployed (or read from a packed file), its latent weights are gone; "
                "use the converted model that it was made from."
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise ConfigError(
                f"{where}, a TorchScript program that cannot be rewritten: convert the nn.Module that it was "
                "made from, then script or trace the result."
            )
        if type(module).__module__.startswith(_QUANTIZED):
            raise ConfigError(
                f"{where} of {type(module).__module__.split('.modules')[0]}: no gradient passes a quantized "
                "layer, so that nothing in front of it could be trained; convert the float model instead, "
                "before any preparation for quantization."
            )


def no_layers(model: Any) -> str:
    """The message for a model without a layer to convert."""
    text = f"{type(model).__name__} has no convolution or linear layer to convert"
    if type(model).__name__.startswith("GraphModule"):
        text += ": graphs by torch.export call them as functions; convert the nn.Module that was exported"
    return f"{text}."


class _CopiesOfResults(TorchFunctionMode):
    """While it is active, results of a computation can be copied: as plain tensors of the same values.

    torch refuses to copy what has a history. Modules hold such tensors anywhere, in lists and objects too:
    weight_norm's weight, pruned weights, features of the last forward; the next one makes them anew.
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
    """A deep copy, also of modules that hold results of a computation, wherever they do.

    Args:
        model: to copy.
        memo: what stands in the copy for an object of the model, by its id.

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


def _named(module: nn.Module, names: set[str]) -> bool:
    return any(cls.__name__ in names for cls in type(module).__mro__)
