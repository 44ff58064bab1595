"""Queries on a recorded run: what is in front of and behind a layer, where the channel dim is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from torch import Tensor, fx, nn

from binarize.graph.trace.recording import Recording
from binarize.graph.trace.roles import module_role

# Steps that change the position of values, not the values.
LAYOUT = {"layout"}
# Steps that a signal passes unchanged up to a factor that training sets: layout and dropout.
PASSIVE = {"layout", "drop"}


class Flow:
    """A recording with its model.

    Args:
        model: the model that was recorded.
        recording: its flat graph.
    """

    def __init__(self, model: nn.Module, recording: Recording) -> None:
        self.model = model
        self.recording = recording
        self.graph = recording.graph
        self.nodes: list[fx.Node] = list(recording.graph.nodes)
        self.order = {node: index for index, node in enumerate(self.nodes)}
        self.modules = dict(model.named_modules())
        self.parameters = {name for name, _ in model.named_parameters()}
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        self._trained = trained or self.parameters  # a model for inference: all were trained
        names = Counter(id(m) for _, m in model.named_modules(remove_duplicate=False))
        self._aliased = {id(m) for m in self.modules.values() if names[id(m)] > 1}
        self.calls: dict[str, list[fx.Node]] = {}
        for node in self.nodes:
            if node.op == "call_module":
                self.calls.setdefault(str(node.target), []).append(node)
        self.channel_dim: dict[fx.Node, int | None] = {}
        for node in self.nodes:
            self.channel_dim[node] = self._channel_dim(node)

    # -- single nodes -------------------------------------------------------------------------------

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that a node calls, or None for a function."""
        return self.modules.get(str(node.target)) if node.op == "call_module" else None

    def has_aliases(self, path: str) -> bool:
        """Whether the module at `path` is registered under other names too."""
        return id(self.modules[path]) in self._aliased

    def is_read(self, path: str) -> bool:
        """Whether a forward reads a tensor of the module at `path` without calling it."""
        held = self.modules[path]
        names = (*held._parameters, *held._buffers)
        return any(f"{path}.{name}" in self.recording.read for name in names)

    def role(self, node: fx.Node) -> str:
        """The role of a node; `output` and inputs are `other`."""
        return node.meta.get("role", "other")

    def is_layer(self, node: fx.Node) -> bool:
        """A convolution or linear module."""
        module = self.module(node)
        return module is not None and module_role(module) in ("conv", "linear")

    def source(self, node: fx.Node) -> fx.Node | None:
        """The first tensor that a node computes with, except parameters."""
        return next((n for n in node.all_input_nodes if not n.meta["constant"]), None)

    def sources(self, node: fx.Node) -> list[fx.Node]:
        """All tensors that a node computes with, except parameters."""
        return [n for n in node.all_input_nodes if not n.meta["constant"]]

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """The shape of a node's result."""
        return node.meta.get("shape", ())

    def channels(self, node: fx.Node) -> int:
        """C of a result; the size of dim 1 where it is not known which dim holds them, 0 of a scalar."""
        shape, dim = self.shape(node), self.channel_dim.get(node)
        return shape[1 if dim is None else dim] if len(shape) > (dim or 1) else 0

    def trained(self, node: fx.Node) -> str | None:
        """The name of the first trained parameter among what a function is called with, reshaped or not."""
        queue = [n for n in reversed(node.all_input_nodes) if n.meta["constant"]]
        while queue:
            found = queue.pop()
            if found.op == "get_attr" and str(found.target) in self._trained:
                return str(found.target)
            queue += reversed(found.all_input_nodes)
        return None

    def positions(self, node: fx.Node) -> int | None:
        """How many positions (pixels, tokens) a result has per sample; None if its channel dim is unknown."""
        shape, dim = self.shape(node), self.channel_dim.get(node)
        if dim is None or len(shape) < 2:
            return None
        count = 1
        for axis, n in enumerate(shape[1:], start=1):
            count *= 1 if axis == dim else n
        return count

    # -- walks --------------------------------------------------------------------------------------

    def up(self, node: fx.Node, through: Iterable[str]) -> fx.Node | None:
        """The nearest producer of `node` whose role is not in `through`, along first inputs."""
        roles = set(through)
        found = self.source(node)
        while found is not None and self.role(found) in roles and self.source(found) is not None:
            found = self.source(found)
        return found

    def only_user(self, node: fx.Node, through: Iterable[str]) -> fx.Node | None:
        """The nearest consumer of `node` whose role is not in `through`, if there is exactly one."""
        roles = set(through)
        while len(node.users) == 1:
            node = next(iter(node.users))
            if self.role(node) not in roles or node.op == "output":
                return node
        return None

    def consumers(self, node: fx.Node, through: Iterable[str]) -> list[fx.Node]:
        """The nearest consumers of `node` whose roles are not in `through`, on all paths."""
        roles = set(through)
        found: list[fx.Node] = []
        seen: set[fx.Node] = set()
        queue = list(node.users)
        while queue:
            user = queue.pop()
            if user in seen:
                continue
            seen.add(user)
            if self.role(user) in roles and user.op != "output":
                queue += user.users
            else:
                found.append(user)
        return found

    def reaches(
        self, node: fx.Node, wanted: Callable[[fx.Node], bool], stop: Callable[[fx.Node], bool]
    ) -> bool:
        """Whether `wanted` holds for a direct or indirect consumer of `node`; the search ends at `stop`."""
        seen: set[fx.Node] = set()
        queue = list(node.users)
        while queue:
            user = queue.pop()
            if user in seen:
                continue
            seen.add(user)
            if wanted(user):
                return True
            if not stop(user):
                queue += user.users
        return False

    def between(self, start: fx.Node, end: fx.Node) -> set[fx.Node]:
        """All nodes on paths from `start` to `end`, without `start`; empty if there is no path."""
        low = self.order[start]
        up: set[fx.Node] = set()
        queue = [end]
        while queue:
            node = queue.pop()
            if node in up or self.order[node] < low:
                continue
            up.add(node)
            if node is not start:
                queue += node.all_input_nodes
        if start not in up:
            return set()
        on_way: set[fx.Node] = set()
        for node in sorted(up, key=self.order.__getitem__):
            if any(n is start or n in on_way for n in node.all_input_nodes) and node is not start:
                on_way.add(node)
        return on_way

    # -- channel dims -------------------------------------------------------------------------------

    def _channel_dim(self, node: fx.Node) -> int | None:
        """The channel dim of a node's result, which its shape does not show."""
        shape, role = self.shape(node), self.role(node)
        if node.op in ("placeholder", "output"):
            return 1 if len(shape) >= 3 else len(shape) - 1 if shape else None
        if role == "conv":
            return 1
        if role == "linear":
            return len(shape) - 1
        source = self.source(node)
        if source is None:
            return None
        dim, before = self.channel_dim.get(source), self.shape(source)
        if role == "norm" and dim is None:
            return len(shape) - 1 if isinstance(self.module(node), (nn.LayerNorm, nn.RMSNorm)) else 1
        if dim is None or dim >= len(before):
            return None
        if role == "layout":
            return _through_layout(node, dim, before, shape)
        if len(shape) == len(before):
            return dim
        return 1 if dim == 1 and len(shape) >= 2 and shape[1] == before[1] else None


def _through_layout(node: fx.Node, dim: int, before: tuple[int, ...], after: tuple[int, ...]) -> int | None:
    name = getattr(node.target, "__name__", "")
    rank = len(before)
    if name in ("permute",):
        given = (
            node.args[1:]
            if len(node.args) > 2
            else node.args[1]
            if len(node.args) > 1
            else node.kwargs.get("dims")
        )
        order = [int(d) % rank for d in given]  # type: ignore[union-attr, arg-type]
        return order.index(dim)
    if name == "__get__":  # x.mT and the like; only .data leaves every dim where it is
        return dim if getattr(node.target, "__self__", None) is Tensor.data else None  # type: ignore[comparison-overlap]
    if name in ("transpose", "swapaxes", "swapdims") and len(node.args) == 3:
        a, b = (int(d) % rank for d in node.args[1:3])  # type: ignore[arg-type]
        return b if dim == a else a if dim == b else dim
    if before == after:
        return dim
    # A reshape keeps the channels where everything before or behind them stayed as it was.
    if len(after) > dim and before[: dim + 1] == after[: dim + 1]:
        return dim
    tail = rank - dim
    if len(after) >= tail and before[dim:] == after[len(after) - tail :]:
        return len(after) - tail
    return None
