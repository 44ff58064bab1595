"""Which function lowers which operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, fx

from binarize.runtime.program.graph import value_of
from binarize.runtime.program.lowering import Lowering

Lower = Callable[..., Any]
"""(lowering, node, *args, **kwargs) -> tensors of the result; `NotImplemented` leaves the node to torch."""

_known: dict[Any, Lower] = {}


def lowers(*targets: Any) -> Callable[[Lower], Lower]:
    """Register a function for operators."""

    def register(function: Lower) -> Lower:
        for target in targets:
            _known[target] = function
        return function

    return register


def lower_node(lowering: Lowering, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    """The tensors of a node's result, after the steps that make them were added."""
    args = fx.node.map_arg(node.args, values.__getitem__)
    kwargs = fx.node.map_arg(node.kwargs, values.__getitem__)
    function = _known.get(node.target)
    made = NotImplemented if function is None else function(lowering, node, *args, **kwargs)
    return by_torch(lowering, node, args, kwargs) if made is NotImplemented else made


def by_torch(lowering: Lowering, node: fx.Node, args: Any, kwargs: Any) -> Any:
    """A call of torch, its results copied to memory of the program."""
    val = value_of(node)
    several = isinstance(val, (list, tuple))
    parts: list[Any] = list(val) if several else [val]
    if not all(isinstance(part, Tensor) for part in parts):
        raise TypeError(f"{node.target} gives {type(val).__name__}, not tensors")
    made = [lowering.empty(tuple(part.shape), part.dtype) for part in parts]
    lowering.torch(node.target, args, kwargs, made, str(node.target))
    return tuple(made) if several else made[0]


def same_memory(a: Tensor, b: Tensor) -> bool:
    """Whether a tensor is a view of another one."""
    return a.untyped_storage()._cdata == b.untyped_storage()._cdata

