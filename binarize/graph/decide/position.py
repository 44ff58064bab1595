"""The position of each layer in the network: at the image, at an output, in a gate."""

from __future__ import annotations

from torch import fx

from binarize.graph.decide.constant_layers import fixed_layers
from binarize.graph.decide.outputs import Outputs
from binarize.graph.decide.pooling import elements, map_size, pooled_values
from binarize.graph.trace.dataflow import Flow

_REPEATS = ("expand", "expand_as", "broadcast_to", "repeat", "tile")


class Position:
    """The position of each layer in the network.

    Args:
        flow: the recorded run.

    Attributes:
        fixed: paths of layers whose weights are constants; they count neither as first nor as last.
        outputs: the outputs and their last layers.
    """

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self.fixed = fixed_layers(flow)
        self._pooled = pooled_values(flow)
        self._depth: dict[fx.Node, int] = {}
        for node in flow.nodes:
            above = max((self._depth[n] for n in flow.sources(node)), default=0)
            self._depth[node] = above + self._counts(node)
        self.outputs = Outputs(flow, self.fixed, self._stem_channels())
        self._height: dict[fx.Node, int | None] = {}
        for node in reversed(flow.nodes):
            self._height[node] = self._layers_to_output(node)

    def depth(self, node: fx.Node) -> int:
        """Layers on the longest path from the input to this one, itself included: 1 sees the image."""
        return self._depth[node]

    def height(self, node: fx.Node) -> int | None:
        """1 for a final layer, 2 for a layer whose result only final layers use...; None for all others."""
        return self._height[node]

    def _counts(self, node: fx.Node) -> bool:
        return self._flow.is_layer(node) and str(node.target) not in self.fixed

    def _stem_channels(self) -> int:
        flow = self._flow
        return max(
            (flow.channels(n) for n in flow.nodes if self._depth[n] == 1 and self._counts(n)), default=0
        )

    def _layers_to_output(self, node: fx.Node) -> int | None:
        """As `height`, for any node: the number of layers at or behind it up to a final one."""
        if node.op == "call_module" and str(node.target) in self.outputs.final:
            return 1
        users = [self._height[user] for user in node.users]
        if not users or node.op == "output" or any(height is None for height in users):
            return None
        return max(height for height in users if height is not None) + self._counts(node)

    def pooled(self, node: fx.Node) -> bool:
        """Whether a layer works on the result of global pooling: one position per sample."""
        source = self._flow.source(node)
        return source is not None and map_size(self._flow, source) == 1 and source in self._pooled

    def gates(self, node: fx.Node) -> bool:
        """Whether the result of a layer behind a pooling becomes a factor of a map."""
        flow = self._flow
        size = elements(flow, node)

        def scales_map(user: fx.Node) -> bool:
            if flow.role(user) not in ("mul", "other", "attention") or _repeats(user):
                return False
            larger = elements(flow, user) - size
            return larger > 0 or (larger == 0 and map_size(flow, user) == 1 and user not in self._pooled)

        return flow.reaches(node, scales_map, lambda user: flow.role(user) in ("upsample", "add"))

    def spreads(self, node: fx.Node) -> bool:
        """Whether a pooled result is resized to a map again (pyramid pooling) instead of gating one."""
        flow = self._flow
        return flow.reaches(
            node,
            lambda user: flow.role(user) == "upsample",
            lambda user: flow.role(user) in ("mul", "add", "cat"),
        )


def _repeats(node: fx.Node) -> bool:
    """Whether a call only repeats a value at more positions: no factor, as the context of an ASPP shows."""
    return node.op == "call_function" and getattr(node.target, "__name__", "") in _REPEATS
