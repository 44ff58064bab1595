"""Which function lowers which operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves

from binarize.runtime.program.capture import NoProgramError
from binarize.runtime.program.graph import value_of
from binarize.runtime.program.lowering import Lowering, rows
from binarize.runtime.program.recorded import definition, is_dense, storage_of

Lower = Callable[..., Any]
"""(lowering, node, *args, **kwargs) -> tensors of the result; `NotImplemented` leaves the node to torch."""

_aten = torch.ops.aten
_OF_MAPS = {
    _aten.conv2d.default,
    _aten.conv_transpose2d.input,
    _aten.batch_norm.default,
    _aten.max_pool2d.default,
    _aten.avg_pool2d.default,
    _aten.adaptive_avg_pool2d.default,
    _aten.upsample_bilinear2d.vec,
    _aten.upsample_nearest2d.vec,
    _aten.upsample_bicubic2d.vec,
    _aten.pixel_shuffle.default,
    _aten.group_norm.default,
    _aten.instance_norm.default,
}
"""Operators on (N, C, H, W), whose results are channels-last."""

_known: dict[Any, Lower] = {}


def lowers(*targets: Any) -> Callable[[Lower], Lower]:
    """Register a function for operators."""

    def register(function: Lower) -> Lower:
        for target in targets:
            _known[target] = function
        return function

    return register


def lower_node(lowering: Lowering, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    """The tensors of a node's result, after the steps that make them were added.

    Raises:
        NoProgramError: the node gives something else than tensors.
        NativeError: the library does not take a layer.
    """
    args: Any = map_arg(node.args, values.__getitem__)
    kwargs: Any = map_arg(node.kwargs, values.__getitem__)
    function = _known.get(node.target)
    made = NotImplemented if function is None else function(lowering, node, *args, **kwargs)
    return by_torch(lowering, node, args, kwargs) if made is NotImplemented else made


def callable_of(node: fx.Node) -> Callable[..., Any]:
    """The function that a node of kind `call_function` calls.

    Raises:
        TypeError: a node of another kind.
    """
    if not callable(node.target):
        raise TypeError(f"{node.format_node()}: expected a call of a function")
    return node.target


def by_torch(lowering: Lowering, node: fx.Node, args: Any, kwargs: Any) -> Any:
    """A call of torch, its results copied to memory of the program.

    Raises:
        NoProgramError: it gives something else than tensors, or depends on strides that are not known.
    """
    val, function = value_of(node), definition(node)
    several = isinstance(val, (list, tuple))
    parts: list[Any] = list(val) if several else [val]
    if not all(isinstance(part, Tensor) for part in parts):
        raise NoProgramError(f"{node.target} gives {type(val).__name__}, not tensors")
    given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    of_maps = node.target in _OF_MAPS
    made = [_like(lowering, tuple(part.shape), part.dtype, given, of_maps) for part in parts]
    if (place := lowering.placed(node)) is not None:
        made[0] = place
    elif (strides := lowering.wanted.get(node)) is not None:
        made[0] = lowering.strided(tuple(parts[0].shape), strides, parts[0].dtype)
    lowering.torch(function, args, kwargs, made, str(node.target))
    return tuple(made) if several else made[0]


def _like(
    lowering: Lowering, shape: tuple[int, ...], dtype: torch.dtype, given: list[Tensor], of_maps: bool
) -> Tensor:
    """Memory with the strides that readers expect: an operand's of the same shape, or channels-last."""
    for operand in given:
        if tuple(operand.shape) == shape and is_dense(operand):
            return lowering.strided(shape, operand.stride(), dtype)
    last = of_maps or any(t.dim() == 4 and t.shape[1] > 1 and t.stride(1) == 1 for t in given)
    return lowering.empty(shape, dtype) if last else lowering.strided(shape, rows(shape), dtype)


def strides_like(x: Tensor, shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a dense tensor whose dims lie in the order of those of `x`, which has as many."""
    strides, step = [0] * x.dim(), 1
    for d in sorted(range(x.dim()), key=lambda d: (x.stride(d), -d)):
        strides[d], step = step, step * shape[d]
    return tuple(strides)


def same_memory(a: Tensor, b: Tensor) -> bool:
    """Whether a tensor is a view of another one."""
    return storage_of(a) == storage_of(b)
