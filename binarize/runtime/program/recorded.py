"""What a recorded run says of strides: a program plans its own, which some operators must not see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves, tree_map_only

from binarize.runtime.program.capture import NoProgramError

_aten = torch.ops.aten
_GIVEN = "recorded_arguments"
"""Meta entry of a node whose operator looks at strides: its arguments as they were before any pass."""
_STORAGE = (_aten.as_strided.default, _aten.as_strided_.default, _aten.as_strided_copy.default)
"""They read the memory that their argument lies in, by strides and offset of their own."""
_DEPENDENT = {
    *_STORAGE,
    _aten.as_strided_scatter.default,
    _aten._reshape_alias.default,
    _aten._reshape_alias_copy.default,
    _aten.view_as_complex.default,
    _aten.view_as_complex_copy.default,
    _aten.view.dtype,
    _aten.view_copy.dtype,
}
_VIEWS = {_aten.view.default, _aten._unsafe_view.default, _aten.unflatten.int, _aten.flatten.using_ints}
"""They refuse strides that `reshape` takes."""
_OUR_NAMESPACES = ("aten", "binarize")


def looks_at_strides(target: Any) -> bool:
    """Whether an operator's values, or whether it runs at all, depend on the strides of its arguments.

    Torch's own do not, but for a few. Of operators of other packages nothing is known.
    """
    if target in _DEPENDENT:
        return True
    namespace = getattr(target, "namespace", None)
    return namespace is not None and namespace not in _OUR_NAMESPACES


def note_strides(graph: fx.Graph) -> None:
    """Keep what passes change, for operators that look at strides."""
    for node in graph.nodes:
        if node.op == "call_function" and looks_at_strides(node.target):
            node.meta[_GIVEN] = [n.meta.get("val") for n in _nodes((node.args, node.kwargs))]


def definition(node: fx.Node) -> Callable[..., Any]:
    """What a node calls, as a function of tensors with any strides.

    Raises:
        NoProgramError: it reads memory in which its argument does not lie.
        TypeError: a node that calls nothing.
    """
    target: Any = node.target
    if target in _VIEWS:
        return _reshaped(node)
    if not looks_at_strides(target):
        if not callable(target):
            raise TypeError(f"{node.format_node()}: expected a call of a function")
        return target
    recorded = node.meta.get(_GIVEN)
    if recorded is None:
        raise NoProgramError(f"{target} depends on strides, and a pass made it")
    offset = _offset(node, recorded[0]) if target in _STORAGE else None

    def call(*args: Any, **kwargs: Any) -> Any:
        vals = iter(recorded)
        args, kwargs = tree_map_only(Tensor, lambda x: _laid(x, next(vals)), (args, kwargs))
        if offset is None:
            return target(*args, **kwargs)
        x, size, stride = args[:3]
        return torch.as_strided(x, size, stride, x.storage_offset() + offset)

    return call


def _nodes(value: Any) -> list[fx.Node]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, fx.Node)]


def _reshaped(node: fx.Node) -> Callable[..., Any]:
    shape = tuple(node.meta["val"].shape)
    return lambda x, *args, **kwargs: x.reshape(shape)


def _laid(x: Tensor, like: Any) -> Tensor:
    """A tensor with the strides that it had in the recorded run, if it has others."""
    if not isinstance(like, Tensor) or x.stride() == like.stride():
        return x
    if overlaps(like):
        return x.contiguous()
    made = torch.empty_strided(like.shape, like.stride(), dtype=x.dtype, device=x.device)
    once(made).copy_(once(x, like))
    return made


def once(x: Tensor, like: Tensor | None = None) -> Tensor:
    """A tensor's values without those that `like` (or it itself) repeats with strides of 0."""
    for dim, stride in enumerate((x if like is None else like).stride()):
        x = x.narrow(dim, 0, min(1, x.shape[dim])) if stride == 0 else x
    return x


def overlaps(x: Tensor) -> bool:
    """Whether places in memory may belong to several values in another way than by strides of 0."""
    reach = 0
    for stride, size in sorted((s, n) for s, n in zip(x.stride(), x.shape, strict=True) if n > 1 and s):
        if stride <= reach:
            return True
        reach += stride * (size - 1)
    return False


def _offset(node: fx.Node, given: Any) -> int:
    """Where a result of `as_strided` begins in its argument, which has to hold all of it."""
    made = node.meta["val"]
    start = made.storage_offset() - given.storage_offset()
    inside = start >= 0 and start + extent(made) <= extent(given)
    if made.numel() and not (inside and is_dense(given)):
        raise NoProgramError(f"{node.target} reads memory around its argument")
    return start


def storage_of(tensor: Tensor) -> int:
    """The number of the memory that a tensor lies in."""
    return tensor.untyped_storage()._cdata


def extent(x: Tensor) -> int:
    """Values from the first to the last one in memory, with those between."""
    return 1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True)) if x.numel() else 0


def is_dense(x: Tensor) -> bool:
    """Whether a tensor's values fill a piece of memory, each once, in some order of its dims."""
    step = 1
    for stride, size in sorted((s, n) for s, n in zip(x.stride(), x.shape, strict=True) if n > 1):
        if stride != step:
            return False
        step *= size
    return True
