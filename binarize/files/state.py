"""The tensors of a model: which ones a file holds, and how they come back into a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from binarize.errors import ConfigError, FormatError
from binarize.files.container import detached


def state_of(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What to store, and the names that share a tensor with a stored one."""
    stored: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[Any, str] = {}
    taken: set[int] = set()
    for name, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor):
            raise ConfigError(f"cannot save {name!r}: a {type(value).__name__}, expected a tensor.")
        if value.is_meta or value.layout is not torch.strided or value.is_quantized or value.dtype.is_complex:
            kind = "a tensor without data" if value.is_meta else f"a {value.layout}, {value.dtype} tensor"
            raise ConfigError(f"cannot save {name!r}: {kind}, expected a dense tensor of numbers.")
        key = (value.device, value.data_ptr(), value.dtype, tuple(value.shape), value.stride())
        if value.numel() and key in first:
            aliases[name] = first[key]
            continue
        first[key] = name
        tensor = detached(value)
        storage = tensor.untyped_storage().data_ptr()
        # safetensors refuses tensors that overlap, and would refuse a view of something larger
        stored[name] = tensor.clone() if storage in taken else tensor
        taken.add(storage)
    return stored, aliases


def with_aliases(stored: Mapping[str, Tensor], aliases: Mapping[str, str], where: str) -> dict[str, Tensor]:
    """All names with their tensors, tied ones with the same.

    Raises:
        FormatError: for a tie to nothing.
    """
    tensors = dict(stored)
    for name, target in aliases.items():
        if target not in stored or name in stored:
            raise FormatError(
                f"{where} is corrupted: {name!r} is said to be tied to {target!r}, which cannot be."
            )
        tensors[name] = stored[target]
    return tensors


def assign(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Put the tensors in place with their own dtypes; tied parameters become one parameter."""
    slots = model.state_dict(keep_vars=True)
    made: dict[int, nn.Parameter] = {}
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        slot = slots[name]
        if slot.is_floating_point() != tensor.is_floating_point():
            raise FormatError(f"{where}: {name!r} is {tensor.dtype}, which one of {slot.dtype} cannot be.")
        if not isinstance(slot, nn.Parameter):
            state[name] = tensor
            continue
        if id(tensor) not in made:
            made[id(tensor)] = nn.Parameter(tensor, requires_grad=slot.requires_grad)
        state[name] = made[id(tensor)]
    model.load_state_dict(state, strict=True, assign=True)


def transient_buffers(model: nn.Module) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Name, owner and value of each floating-point buffer that the state dict leaves out."""
    for prefix, owner in model.named_modules():
        for name in sorted(owner._non_persistent_buffers_set):
            buffer = owner._buffers.get(name)
            if buffer is not None and buffer.is_floating_point():
                yield (f"{prefix}.{name}" if prefix else name), owner, buffer


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Of all tensors in the state of `model`."""
    return {
        name: tuple(value.shape) for name, value in model.state_dict().items() if isinstance(value, Tensor)
    }
