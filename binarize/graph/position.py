"""Where each layer stands in the network: at the image, at an output, in a gate."""

from __future__ import annotations

from torch import fx

from binarize.graph.flow import Flow

_HEAD_ROLES = {"layout", "drop", "upsample", "gate", "pool", "split"}


class Position:
    """Where each layer stands in the network: at the image, at the output, in a gate."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._depth: dict[fx.Node, int] = {}
        self._height: dict[fx.Node, int | None] = {}
        for node in flow.nodes:
            above = max((self._depth[n] for n in node.all_input_nodes), default=0)
            self._depth[node] = above + flow.is_layer(node)
        for node in reversed(flow.nodes):
            self._height[node] = self._layers_to_output(node)

    def depth(self, node: fx.Node) -> int:
        """Layers on the longest way from the input to this one, itself included: 1 sees the image."""
        return self._depth[node]

    def height(self, node: fx.Node) -> int | None:
        """1 for a final layer, 2 for a layer whose result only final layers use...; None for all others."""
        return self._height[node]

    def _layers_to_output(self, node: fx.Node) -> int | None:
        """As `height`, for any node: the number of layers at or behind it up to a final one."""
        if node.op == "output":
            return 0
        users = [self._height.get(user) for user in node.users]
        if not users or any(height is None for height in users):
            return None
        behind = max(height for height in users if height is not None)
        if self._flow.is_layer(node):
            return behind + 1
        if behind == 0 and not self._plain_head(node):
            return None  # a norm, an activation or a sum in front of the output: features, not a classifier
        return behind

    def _plain_head(self, node: fx.Node) -> bool:
        role = self._flow.role(node)
        if role in _HEAD_ROLES:
            return True
        if role == "mul":
            return len(self._flow.sources(node)) == 1
        if role == "add" and len(self._flow.shape(node)) == 2:  # the mean of two classifiers
            return True
        return self._joins(node) and all(self._is_score(n) for n in self._flow.sources(node))

    def _joins(self, node: fx.Node) -> bool:
        name = getattr(node.target, "__name__", "")
        return self._flow.role(node) in ("add", "cat") or name in ("maximum", "max", "minimum", "min")

    def _is_score(self, node: fx.Node) -> bool:
        """Whether a value is a layer's own result, perhaps resized, or joined of such: a score of a head.

        What an activation or a norm made, or what came past a layer, is a feature.
        """
        if self._flow.is_layer(node):
            return True
        sources = self._flow.sources(node)
        if not sources or not (self._joins(node) or self._flow.role(node) in _HEAD_ROLES):
            return False
        return all(self._is_score(source) for source in sources)

    def pooled(self, node: fx.Node) -> bool:
        """Whether a layer works on what global pooling left: one position per sample of a larger map."""
        flow = self._flow
        current: fx.Node | None = flow.source(node)
        if current is None or _map_size(flow, current) != 1:
            return False
        seen = 0
        while current is not None and seen < 64:
            source = flow.source(current)
            if source is None:
                return False
            # a pool, or an attention map times the map (global context)
            if flow.role(current) in ("pool", "matmul"):
                if _elements(flow, source) > _elements(flow, current):
                    return True
            elif _map_size(flow, current) != 1:
                return False
            current, seen = source, seen + 1
        return False

    def gates(self, node: fx.Node) -> bool:
        """Whether a layer's result ends up as a factor of something larger."""
        flow = self._flow
        size = _elements(flow, node)
        return flow.reaches(
            node,
            lambda user: flow.role(user) in ("mul", "other", "attention") and _elements(flow, user) > size,
            lambda user: flow.role(user) in ("upsample", "add"),
        )

    def spreads(self, node: fx.Node) -> bool:
        """Whether a pooled result is brought back to a map (pyramid pooling) instead of gating one."""
        flow = self._flow
        return flow.reaches(
            node,
            lambda user: flow.role(user) == "upsample",
            lambda user: flow.role(user) in ("mul", "add", "cat"),
        )


def _elements(flow: Flow, node: fx.Node) -> int:
    count = 1
    for n in flow.shape(node):
        count *= n
    return count


def _map_size(flow: Flow, node: fx.Node) -> int | None:
    """Positions of a map; a vector (N, C) has one, and (N, 1, C) and (N, C, 1, 1) have."""
    if sum(n > 1 for n in flow.shape(node)[1:]) <= 1:
        return 1
    return flow.positions(node)
