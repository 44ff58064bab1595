"""Where the values of a recorded run can be negative and where not, channel by channel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor, fx, nn

from binarize.graph.decide import intervals
from binarize.graph.decide.intervals import ANYWHERE, Interval, hull, interval
from binarize.graph.decide.sign_rules import Call, name_of, rule_of
from binarize.graph.trace.dataflow import Flow
from binarize.graph.trace.module_graph import acts

Ranges = tuple[tuple[int, int], ...]

_IN_PLACE = {"iadd", "isub", "imul", "idiv", "itruediv", "ipow", "ifloordiv", "imod", "setitem"}
_SMALL = 4096  # elements of a constant that are examined
_STILL = (nn.modules.padding._ReflectionPadNd, nn.modules.padding._ReplicationPadNd)


class Signs:
    """Bounds of the values of all nodes of a flow.

    Args:
        flow: of the model.
        instead: for a node that the plan replaces: the node whose value it will have, or the bounds of its
            new values; None for all other nodes.
    """

    def __init__(
        self, flow: Flow, instead: Callable[[fx.Node], fx.Node | Interval | None] = lambda node: None
    ) -> None:
        self._flow = flow
        self._instead = instead
        self._found: dict[fx.Node, Interval] = {}
        changed = _changed_by_another_name(flow)
        for node in flow.nodes:
            found = ANYWHERE if node in changed else self._of(node)
            self._found[node] = found if self._fits(found, node) else hull(found)

    def nonnegative(self, node: fx.Node, channels: int, dim: int, *, positive: bool = False) -> Ranges:
        """The channels [start, stop) of a value in which nothing is negative.

        Args:
            node: whose value it is.
            channels: C of the layer that reads it.
            dim: where that layer has the channels: 1 or -1.
            positive: only channels in which nothing is 0 either.
        """
        found, shape = self._found.get(node, ANYWHERE), self._flow.shape(node)
        same = self._flow.channel_dim.get(node) == dim % max(1, len(shape))
        inside = found.low > 0 if positive else found.low >= 0
        if not found.low.ndim or not same or len(found.low) != channels:
            return ((0, channels),) if bool(inside.all()) else ()
        free = np.concatenate(([False], inside, [False]))
        ends = np.flatnonzero(free[1:] != free[:-1])
        return tuple((int(a), int(b)) for a, b in zip(ends[::2], ends[1::2], strict=True))

    def low(self, node: fx.Node) -> float:
        """The lower bound of all channels."""
        return float(hull(self._found[node]).low)

    def _of(self, node: fx.Node) -> Interval:
        instead = self._instead(node)
        if isinstance(instead, fx.Node):
            return self._at(instead, node)
        if instead is not None:
            return instead
        if node.op == "get_attr":
            return self._constant(node)
        if node.op == "call_module":
            return self._module(node)
        return self._function(node) if node.op == "call_function" else ANYWHERE

    def _constant(self, node: fx.Node) -> Interval:
        """Bounds of a tensor of the model by its current values, or of one that a forward makes from numbers.

        Training may move a parameter anywhere, but already at the start a layer must see both signs.
        """
        if "bounds" in node.meta:
            return interval(*node.meta["bounds"])
        path, _, name = str(node.target).rpartition(".")
        holder = self._flow.modules.get(path)
        tensor = getattr(holder, name, None)
        if not isinstance(tensor, Tensor) or tensor.is_meta or tensor.is_complex():
            return ANYWHERE
        if isinstance(holder, nn.modules.batchnorm._NormBase) or not 0 < tensor.numel() <= _SMALL:
            return ANYWHERE
        tensor = tensor.detach()
        low, high = float(tensor.min()), float(tensor.max())
        return interval(low, high) if low <= high else ANYWHERE

    def _module(self, node: fx.Node) -> Interval:
        module, source = self._flow.module(node), self._flow.source(node)
        if module is None or source is None or self._flow.is_layer(node):
            return ANYWHERE
        role, x = self._flow.role(node), self._at(source, node)
        if role == "drop" and not isinstance(module, (nn.AlphaDropout, nn.FeatureAlphaDropout)):
            return intervals.scaled_up(x)
        if isinstance(module, nn.PixelShuffle):
            return hull(x)
        if isinstance(module, nn.modules.pooling._AvgPoolNd):
            return intervals.with_zero(x)  # its padding
        return (
            x if role in ("layout", "pool") or isinstance(module, _STILL) else intervals.of_module(module, x)
        )

    def _function(self, node: fx.Node) -> Interval:
        if node.kwargs.get("out") is not None or not node.all_input_nodes:
            return ANYWHERE
        name, first = name_of(node), node.all_input_nodes[0]
        if (special := rule_of(name)) is not None:
            return special(Call(node, self._flow, lambda source: self._at(source, node)))
        if (rule := intervals.unary(name)) is not None:
            return rule(self._at(first, node))
        if self._flow.role(node) == "split" or not intervals.keeps_channels(name):
            return hull(self._found[first]) if intervals.passes(name) or name == "item" else ANYWHERE
        return self._at(first, node) if intervals.passes(name) else ANYWHERE

    def _at(self, source: fx.Node, node: fx.Node) -> Interval:
        """The bounds of a source, per channel only where the node has the same channels at the same place."""
        found = self._found.get(source, ANYWHERE)
        if not found.low.ndim:
            return found
        if self._flow.role(node) != "layout" and self._place(source) != self._place(node):
            return hull(found)
        return found if self._fits(found, node) or self._flow.role(node) == "cat" else hull(found)

    def _place(self, node: fx.Node) -> int | None:
        """The channel dim, counted from the last one."""
        dim = self._flow.channel_dim.get(node)
        return None if dim is None else dim - len(self._flow.shape(node))

    def _fits(self, found: Interval, node: fx.Node) -> bool:
        sizes = {bound.size for bound in found if bound.ndim}
        dim, shape = self._flow.channel_dim.get(node), self._flow.shape(node)
        return not sizes or (dim is not None and dim < len(shape) and sizes == {shape[dim]})


def _writes(node: fx.Node) -> bool:
    by_position = any(given is True for given in node.args[1:])  # F.relu(x, True)
    return acts(node) or name_of(node) in _IN_PLACE or by_position


def _changed_by_another_name(flow: Flow) -> set[fx.Node]:
    """Values whose memory a later step writes to under another name: a view of them, or what they view.

    Steps that change their own argument are in the recording: later steps read the result.
    """
    tensor: dict[fx.Node, fx.Node] = {}  # the first value that a tensor object held
    memory: dict[fx.Node, fx.Node] = {}  # the first value in the memory of a tensor
    holders: dict[fx.Node, list[fx.Node]] = {}
    changed: set[fx.Node] = set()
    for node in flow.nodes:
        source = flow.source(node)
        module = flow.module(node)
        writes = getattr(module, "inplace", False) is True or (node.op == "call_function" and _writes(node))
        if source is not None and writes:
            tensor[node], memory[node] = tensor[source], memory[source]
            others = (n for n in holders[memory[node]] if tensor[n] is not tensor[node])
            changed.update(others)
        elif source is not None and flow.role(node) in ("layout", "split"):
            tensor[node], memory[node] = node, memory[source]
        else:
            tensor[node] = memory[node] = node
        holders.setdefault(memory[node], []).append(node)
    return changed
