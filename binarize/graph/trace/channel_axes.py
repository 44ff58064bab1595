"""Which axes of a tensor hold channels, found by sending their numbers through what rearranges them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from binarize.errors import TraceError
from binarize.graph.trace.dataflow import Flow

_KEEPS_AXES = {"norm", "drop", "act", "mul", "add"}
_REARRANGES = {"layout", "split"}
_LARGEST = 2**24
"""Elements of a tensor whose numbers are sent."""


def channel_axes(flow: Flow, node: fx.Node) -> tuple[int, ...]:
    """The shape of one value per channel of the layer that `node` comes from, broadcastable to `node`.

    For heads of a linear layer's results, (heads, 1, D). The first axis, that of samples, and axes that hold
    positions have size 1: images differ in them.

    Returns:
        Without leading ones; `()` if the channel axes are unknown.
    """
    steps: list[fx.Node] = []
    found = node
    while flow.role(found) not in ("conv", "linear"):
        steps.append(found)
        source = flow.source(found)
        if source is None or len(flow.sources(found)) > 1:
            return ()
        keeps = flow.role(found) in _KEEPS_AXES and flow.shape(found) == flow.shape(source)
        if not keeps and flow.role(found) not in _REARRANGES and _name(found) != "__get__":  # .mT
            return ()
        found = source
    shape, dim = flow.shape(found), 1 if flow.role(found) == "conv" else -1
    if len(shape) < 2 or math.prod(shape) > _LARGEST:
        return ()
    channels, positions = _numbered(shape, dim)
    try:
        channels, positions = (_sent(flow, steps, numbers) for numbers in (channels, positions))
    except Exception:  # whatever a step says to other arguments than those of the run
        return ()
    axes = [
        n if axis and _varies(channels, axis) and not _varies(positions, axis) else 1
        for axis, n in enumerate(channels.shape)
    ]
    while axes and axes[0] == 1:
        del axes[0]
    return tuple(axes)


def _numbered(shape: tuple[int, ...], dim: int) -> tuple[Tensor, Tensor]:
    """Two tensors of this shape: of each element, the number of its channel, and that of its position."""
    along = [n if axis == dim % len(shape) else 1 for axis, n in enumerate(shape)]
    around = [1 if axis == dim % len(shape) else n for axis, n in enumerate(shape)]
    channels = torch.arange(math.prod(along)).view(along)
    positions = torch.arange(math.prod(around)).view(around)
    return channels.expand(shape).contiguous(), positions.expand(shape).contiguous()


def _sent(flow: Flow, steps: list[fx.Node], numbers: Tensor) -> Tensor:
    """What the steps, the last one first, make of a tensor."""
    value: Any = numbers
    for step in reversed(steps):
        if flow.role(step) in _KEEPS_AXES:
            continue
        args, kwargs = map_arg((step.args, step.kwargs), lambda _, value=value: value)
        called: Any = flow.module(step) or step.target
        value = called(*args, **kwargs)
        if isinstance(value, Tensor) and tuple(value.shape) != flow.shape(step):
            raise TraceError(f"{step.name} gives another shape")
    return value


def _varies(numbers: Tensor, axis: int) -> bool:
    return bool((numbers != numbers.narrow(axis, 0, 1)).any())


def _name(node: fx.Node) -> str:
    return getattr(node.target, "__name__", "")
