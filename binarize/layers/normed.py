"""A float layer with a norm in front of it, which keeps its class, its name and the names of its tensors."""

from __future__ import annotations

from typing import Any

from torch import nn


def put_norm_in_front(layer: nn.Module, norm: nn.Module) -> None:
    """Make `layer` compute with norm(x) instead of x; in place.

    The layer holds the norm as `input_norm` and calls it in a hook of its own, the first of all: this works
    wherever the layer is called and however often, and other hooks see what the layer computes with.
    """
    layer.input_norm = norm
    layer.register_forward_pre_hook(normed_input, prepend=True)


def normed_input(layer: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of a layer with `input_norm`, the first of them normalized."""
    return (layer.input_norm(args[0]), *args[1:])
