"""The tensors of a model: which ones a file holds, and how they are put back into a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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


def strides_of(model: nn.Module) -> dict[str, list[int]]:
    """Strides by name of the tensors of `state_of` that fill their memory in another order than the usual."""
    return {
        name: list(value.stride())
        for name, value in model.state_dict(keep_vars=True).items()
        if isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.numel()
        and _fills(value.shape, value.stride())
        and list(value.stride()) != _usual(value.shape)
    }


def laid_out(stored: Mapping[str, Tensor], strides: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    """The tensors with the strides that `strides_of` found.

    Raises:
        FormatError: strides that no tensor of that shape has.
    """
    result = dict(stored)
    for name, given in strides.items():
        tensor = stored.get(name)
        whole = isinstance(given, list) and all(type(n) is int and n > 0 for n in given)
        if tensor is None or not whole or len(given) != tensor.dim() or not _fills(tensor.shape, given):
            raise FormatError(f"{where} is corrupted: strides {given!r} of {name!r} in its header.")
        result[name] = torch.empty_strided(tensor.shape, given, dtype=tensor.dtype).copy_(tensor)
    return result


def _fills(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether a tensor has each place of its memory once."""
    expected = 1
    for stride, n in sorted((s, n) for s, n in zip(strides, shape, strict=True) if n > 1):
        if stride != expected:
            return False
        expected *= n
    return all(0 < stride <= max(expected, 1) for stride in strides)


def _usual(shape: Sequence[int]) -> list[int]:
    strides, size = [], 1
    for n in reversed(shape):
        strides.append(size)
        size *= max(n, 1)
    return strides[::-1]


def with_aliases(stored: Mapping[str, Tensor], aliases: Mapping[str, str], where: str) -> dict[str, Tensor]:
    """All names with their tensors, tied ones with the same.

    Raises:
        FormatError: for a tie to nothing.
    """
    tensors = dict(stored)
    for name, target in aliases.items():
        if target not in stored or name in stored:
            raise FormatError(
                f"{where} is corrupted: {name!r} is listed as tied to {target!r}, which is impossible."
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
