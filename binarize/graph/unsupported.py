"""Models without a correct conversion: refused, with what to do instead.

Packages are recognized by the names of their modules: none of them is imported here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from binarize.errors import ConfigError, with_article
from binarize.graph.wrappers import PARALLEL, is_one_of

_PACKED = {"PackedLayer"}
_SHARDED = {"FullyShardedDataParallel", "FSDPModule"}
# Packages whose modules compute with integers, or observe float ones for later quantization.
_QUANTIZED = (
    "torch.ao.nn.quantized",
    "torch.ao.nn.qat",
    "torch.ao.nn.intrinsic.quantized",
    "torch.ao.nn.intrinsic.qat",
    "torch.ao.quantization.observer",
    "torch.ao.quantization.fake_quantize",
)


def refuse(model: nn.Module) -> None:
    """Refuse models that no correct conversion exists for.

    Raises:
        ConfigError: saying which module of `model` it is, and what to do instead.
    """
    for path, module in model.named_modules():
        where = (
            f"{path} is {with_article(type(module).__name__)}"
            if path
            else f"model: got {with_article(type(module).__name__)}"
        )
        if is_one_of(module, PARALLEL):
            name = type(module).__name__
            what = f"{path or 'model'}.module"
            raise ConfigError(
                f"{where}, which knows the float model's parameters only: convert {what} and wrap the "
                f"result, {name}(binarize.apply({what}, ...))."
            )
        if is_one_of(module, _SHARDED):
            raise ConfigError(
                f"{where}, whose parameters are shards: convert the whole model first, then shard the result."
            )
        if is_one_of(module, _PACKED):
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
