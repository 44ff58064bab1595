"""Arguments of torch's operators in a graph: with their defaults, as what their schemas say that they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx

CONV: tuple[Any, ...] = (None, None, None, [1, 1], [0, 0], [1, 1], 1)
"""Defaults of `aten.conv2d`: input, weight, bias, stride, padding, dilation and groups."""
POOL: tuple[Any, ...] = (None, None, [], [0, 0], [1, 1], False)
"""Defaults of `aten.max_pool2d`: input, kernel, stride, padding, dilation and ceil_mode."""
HARDTANH: tuple[Any, ...] = (None, -1.0, 1.0)
"""Defaults of `aten.hardtanh`: input, low and high."""


def arguments(node: fx.Node, defaults: Sequence[Any] = ()) -> tuple[Any, ...]:
    """Positional arguments of a node, with the last ones of `defaults` where it has fewer."""
    return (*node.args, *defaults[len(node.args) :])


def source_of(node: fx.Node) -> fx.Node:
    """The node that an operator's first argument is, for operators whose first argument is a tensor."""
    source: Any = node.args[0]
    return source
