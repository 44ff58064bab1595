"""What a packed file of a network holds, without making one: names, dtypes and shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from binarize.earlier_names import earlier_arguments
from binarize.graph.model_copy import copied
from binarize.layers import BinaryLayer
from binarize.runtime.layer import PackedLayer
from binarize.runtime.lower import empty_packed
from binarize.runtime.packing.describe import Refusal, describe
from binarize.runtime.spec import PackedSpec


@dataclass(frozen=True)
class Stored:
    """The contents of a packed file, apart from values.

    Attributes:
        tensors: by name, on the meta device, floats in `float_dtype`.
        aliases: name of a tensor that is not stored because it is the same as another -> name of that one.
        layers: packed layers by path.
        kept: binary layers that are not packed, and why.
    """

    tensors: dict[str, Tensor]
    aliases: dict[str, str]
    layers: dict[str, PackedSpec]
    kept: dict[str, str]

    @property
    def bytes(self) -> int:
        """Of all tensors."""
        return sum(size(tensor) for tensor in self.tensors.values())


def size(tensor: Tensor) -> int:
    """Bytes of a tensor's values."""
    return tensor.numel() * tensor.element_size()


@earlier_arguments(leftovers="float_dtype")
def stored(model: nn.Module, float_dtype: torch.dtype = torch.float32) -> Stored:
    """What `binarize.save(model, packed=True)` stores; of a float network, all of it.

    Nothing is computed from weights: a layer that is packed unless its numbers forbid it (they are not
    finite) counts as packed.

    Args:
        model: converted, deployed or float, with or without data; left untouched.
        float_dtype: of the floats.

    Raises:
        ConfigError: the model cannot be copied.
    """
    layers: dict[str, PackedSpec] = {}
    kept: dict[str, str] = {}
    shell = _shell(model, layers, kept)
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[Any, str] = {}
    for name, value in shell.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor):
            continue
        key = _identity(value)
        if value.numel() and key in first:
            aliases[name] = first[key]
            continue
        first[key] = name
        dtype = value.dtype
        if dtype.is_floating_point:
            dtype = torch.float32 if within(name, kept) else float_dtype
        tensors[name] = torch.empty(value.shape, dtype=dtype, device="meta")
    return Stored(tensors, aliases, layers, kept)


def within(name: str, layers: Mapping[str, Any]) -> bool:
    """Whether the tensor of that name is of one of these layers."""
    return any(name.startswith(f"{layer}.") if layer else True for layer in layers)


def _shell(model: nn.Module, layers: dict[str, PackedSpec], kept: dict[str, str]) -> nn.Module:
    """The model with empty packed layers for those that can be packed; other tensors are the model's own."""
    memo: dict[int, Any] = {}
    bits: dict[Any, Tensor] = {}
    for path, layer in model.named_modules():
        if isinstance(layer, PackedLayer):
            layers[path] = layer.spec
        if not isinstance(layer, BinaryLayer):
            continue
        spec = describe(layer)
        if isinstance(spec, Refusal):
            kept[path] = spec.reason
            continue
        layers[path] = spec
        packed = empty_packed(layer, spec)
        # of one latent weight: stored once
        key = (id(layer.weight), str(layer.weight_rule), id(layer.weight_state), packed.bits.shape)
        packed.bits = bits.setdefault(key, packed.bits)
        memo[id(layer)] = packed
    if not memo:
        return model
    for tensor in [*model.parameters(), *model.buffers()]:
        memo[id(tensor)] = tensor  # shared, not copied
    return copied(model, memo)


def _identity(tensor: Tensor) -> Any:
    """What tensors of one memory have in common."""
    if tensor.is_meta or type(tensor) not in (Tensor, nn.Parameter):
        return id(tensor)
    return tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()
