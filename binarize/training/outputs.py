"""From what a network returns to the one tensor (N, C, H, W) that losses and figures need."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from binarize.errors import ConfigError, listed, with_article

SETTING = "network.output"


def selected(output: object, chosen: str | int | None) -> Tensor:
    """The tensor that the recipe's `network.output` selects; (N, H, W) gets its channel, (N, 1, H, W).

    A tensor is taken as it is, whatever was chosen: many networks return more than one only in training.

    Args:
        output: of the network: a tensor, tuple, list, dict, or an object with attributes.
        chosen: index, key or name of an attribute; None for a network that returns a tensor.

    Raises:
        ConfigError: it is not there, or is not a tensor; the message lists what is.
    """
    found = output if isinstance(output, Tensor) or chosen is None else _part(output, chosen)
    if not isinstance(found, Tensor):
        raise ConfigError(_message(output, found, chosen))
    return found.unsqueeze(1) if found.dim() == 3 else found


def _part(output: Any, chosen: str | int) -> Any:
    """What is chosen; None if it is not there."""
    if isinstance(output, Mapping) and chosen in output:
        return output[chosen]
    if isinstance(chosen, str):
        return getattr(output, chosen, None)
    try:
        return output[chosen]
    except (IndexError, KeyError, TypeError):
        return None


def _message(output: object, found: object, chosen: str | int | None) -> str:
    parts = _parts(output)
    tensors = [key for key, value in parts.items() if isinstance(value, Tensor)]
    what = f"the network gives {with_article(type(output).__name__)}"
    if parts:
        what += f" ({listed((f'{key}: {_described(value)}' for key, value in parts.items()), most=8)})"
    if chosen is not None:
        got = "nothing" if found is None else with_article(type(found).__name__)
        what += f", in which {SETTING}: {chosen} is {got}"
    if not tensors:
        return f"{what}; expected one tensor (N, C, H, W): let its forward return that."
    example = f"set {SETTING}, for instance {SETTING}: {tensors[0]} (in Python output={tensors[0]!r})"
    return f"{what}; expected one tensor (N, C, H, W): {example}."


def _parts(output: Any) -> dict[str | int, Any]:
    """What an output holds, by what would choose it."""
    if isinstance(output, Mapping):
        return dict(output)
    if hasattr(output, "_fields"):  # a named tuple
        return dict(zip(output._fields, output, strict=True))
    if isinstance(output, (tuple, list)):
        return dict(enumerate(output))
    if dataclasses.is_dataclass(output):
        return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    held = getattr(output, "__dict__", {})
    return {name: value for name, value in held.items() if not name.startswith("_")}


def _described(value: object) -> str:
    return f"tensor {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
