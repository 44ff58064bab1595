"""The last layers of each output: their results are the network's answer, or features for another network."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from torch import fx, nn

from binarize.graph.trace.dataflow import Flow

# Classes that give feature maps: of torchvision, transformers and segmentation_models_pytorch, by name.
_EXTRACTORS = {"IntermediateLayerGetter", "BackboneWithFPN", "BackboneMixin", "EncoderMixin"}
# Attributes in which networks hold their number of classes.
_CLASS_COUNTS = ("num_classes", "num_labels", "n_classes", "nb_classes", "nclass", "num_class", "classes")
# Activations that give an output its range; all others are used between layers, too.
_RANGES = {"softplus", "softsign", "hardtanh"}
# Functions that hold weights, beside those whose role says so.
_WEIGHTED = {"deform_conv2d", "embedding", "embedding_bag", "bilinear", "addmm", "lstm", "gru", "tensordot"}
# Functions without weights that set an output's range or scale, for the plan's text.
_SHAPING = {
    *("exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "square", "pow", "abs", "clamp", "clamp_min", "clip"),
    *("clamp_max", "maximum", "minimum", "normalize", "reciprocal", "sign", "round", "argmax", "threshold"),
    *("logsigmoid", "cumsum", "cumprod", "nms", "topk", "argsort", "sort"),
}
_MANY = 32  # channels


@dataclass(frozen=True)
class _Trail:
    """What lies between a layer and an output.

    Attributes:
        activated: a norm, or an activation of those that are used between layers.
        residual: a sum of a signal and of what layers made of it.
        product: a matrix product of two signals, such as masks of their queries and a map.
        widest: C of the widest value from the first norm, activation or sum on.
    """

    activated: bool = False
    residual: bool = False
    product: bool = False
    widest: int = 0


@dataclass
class Output:
    """A tensor that the network gives.

    Attributes:
        name: its path in the network's result; `output` for a tensor alone.
        node: its step.
        dropped: the example run computes it and does not return it.
        last: the layers in front of it with no other layer between, by path; True for those whose result it
            is, False for those of features. Weights that a function is called with count by their name.
        steps: the steps without weights between, in the order of the run.
    """

    name: str
    node: fx.Node
    dropped: bool = False
    last: dict[str, bool] = field(default_factory=dict)
    steps: list[fx.Node] = field(default_factory=list)

    @property
    def features(self) -> bool:
        """Whether it is the input of another network."""
        return bool(self.last) and not any(self.last.values())


class Outputs:
    """The outputs of a recorded run with their last layers.

    A layer is final if an output depends on its result through steps without weights only. Features, the
    input of another network, are the exception: maps behind a norm, an activation or residual sums, of many
    channels and no fewer than the layer's input; factors of a product behind one of these; and all
    outputs of a class that is made to give features.

    Args:
        flow: the recorded run.
        fixed: paths of layers whose weights are constants; they count as functions without weights.
        stem: channels of what the first layers give.

    Attributes:
        found: the outputs.
        final: paths of the final layers.
        steps: steps between a final layer and an output; they belong to the output.
    """

    def __init__(self, flow: Flow, fixed: set[str], stem: int) -> None:
        self._flow = flow
        self._fixed = fixed
        self._stem = stem
        self._class_counts = _class_counts(flow.model)
        self._given: dict[fx.Node, bool] = {}
        self.found = [self._output(*root) for root in self._roots()]
        self.steps = {step for output in self.found if not output.features for step in output.steps}
        self.final = {name for output in self.found for name, final in output.last.items() if final}

    def _roots(self) -> list[tuple[str, fx.Node, bool]]:
        """What the run returns, and what it computes with layers and drops (heads for training)."""
        flow = self._flow
        returned = next(node for node in reversed(flow.nodes) if node.op == "output")
        roots = [
            (name, node, False)
            for name, node in zip(flow.recording.outputs, returned.args[0], strict=True)  # type: ignore[arg-type]
        ]
        for node in flow.nodes:
            dropped = node.op == "call_module" and not node.users
            if dropped and all(not call.users for call in flow.calls[str(node.target)]):
                roots.append((f"{node.target} (dropped)", node, True))
        return roots

    def _output(self, name: str, root: fx.Node, dropped: bool) -> Output:
        found = Output(name, root, dropped)
        extracted = self._extracts(root)
        trails, steps = self._walk(root)
        for node, trail in trails:
            path = self._name(node)
            features = extracted or self._is_feature(root, node, trail)
            found.last[path] = found.last.get(path, False) or not features
        found.steps = sorted(steps, key=self._flow.order.__getitem__)
        return found

    def _walk(self, root: fx.Node) -> tuple[list[tuple[fx.Node, _Trail]], set[fx.Node]]:
        """The nearest steps with weights in front of `root`, and the steps without weights between."""
        flow = self._flow
        ends: list[tuple[fx.Node, _Trail]] = []
        steps: set[fx.Node] = set()
        seen: set[tuple[fx.Node, bool, bool, bool]] = set()
        queue = deque([(root, _Trail())])
        while queue:
            node, trail = queue.popleft()
            key = (node, trail.activated, trail.residual, trail.product)
            if key in seen or node.op in ("placeholder", "get_attr") or node.meta["constant"]:
                continue
            seen.add(key)
            if self._has_weights(node):
                ends.append((node, trail))
                continue
            steps.add(node)
            trail = self._past(node, trail)
            queue += [(source, trail) for source in flow.sources(node)]
        return ends, steps

    def _past(self, node: fx.Node, trail: _Trail) -> _Trail:
        flow = self._flow
        product = trail.product or (flow.role(node) == "matmul" and len(flow.sources(node)) > 1)
        # steps behind a product say nothing about its factors
        activated = (trail.activated and trail.product == product) or _activates(flow, node)
        residual = trail.residual or self._is_residual(node)
        widest = max(trail.widest, flow.channels(node)) if activated or residual else 0
        return _Trail(activated, residual, product, widest)

    def _is_residual(self, node: fx.Node) -> bool:
        """Whether a sum adds the results of layers to their own input; the network's input does not count."""
        flow = self._flow
        if flow.role(node) != "add":
            return False
        sources = [source for source in flow.sources(node) if not self._is_given(source)]
        for start in sources:
            for end in sources:
                if start is not end and any(map(self._has_weights, flow.between(start, end))):
                    return True
        return False

    def _is_given(self, node: fx.Node) -> bool:
        """Whether a value comes from the network's input alone, with no weights between."""
        if node not in self._given:
            sources = self._flow.sources(node)
            made = self._has_weights(node) or not sources or not all(map(self._is_given, sources))
            self._given[node] = node.op == "placeholder" or not made
        return self._given[node]

    def _is_feature(self, root: fx.Node, node: fx.Node, trail: _Trail) -> bool:
        if not (trail.activated or trail.residual) or self._flow.channels(root) in self._class_counts:
            return False
        if trail.product and trail.activated:
            return True
        used = self._flow.reaches(root, self._has_weights, lambda user: False)
        some = max(self._stem // 2, 8)
        if trail.residual:
            return trail.widest >= min(some, _MANY)
        module = self._flow.module(node)
        given = getattr(module, "in_channels", getattr(module, "in_features", 0))
        if used:
            return trail.widest >= max(given // 2, min(some, _MANY))
        return math.prod(self._flow.shape(root)[2:]) > 1 and trail.widest >= max(given, _MANY)

    def _extracts(self, node: fx.Node) -> bool:
        """Whether a class made to give features made this value, or the model says that it has no classes."""
        owner = str(node.target) if node.op == "call_module" else node.meta["owner"]
        parts = owner.split(".") if owner else []
        around = ["", *(".".join(parts[: end + 1]) for end in range(len(parts)))]
        made = any(map(_is_extractor, map(self._flow.modules.__getitem__, around)))
        return made or getattr(self._flow.model, "num_classes", None) == 0

    def _has_weights(self, node: fx.Node) -> bool:
        flow, role = self._flow, self._flow.role(node)
        if node.op == "call_module":
            if str(node.target) in self._fixed:
                return False
            return role in ("conv", "linear", "attention")
        name = getattr(node.target, "__name__", "")
        if role not in ("conv", "linear", "matmul") and name not in _WEIGHTED:
            return False
        return flow.trained(node) is not None

    def _name(self, node: fx.Node) -> str:
        if node.op == "call_module":
            return str(node.target)
        return self._flow.trained(node) or node.name


def _is_extractor(module: nn.Module) -> bool:
    if any(cls.__name__ in _EXTRACTORS for cls in type(module).__mro__):
        return True
    return hasattr(
        getattr(module, "feature_info", None), "out_indices"
    )  # timm's, made with features_only=True


def _activates(flow: Flow, node: fx.Node) -> bool:
    """Whether a step is a norm, or an activation of those that are used between layers."""
    module = flow.module(node)
    name = function_name(node) if module is None else type(module).__name__
    return flow.role(node) == "norm" or (flow.role(node) == "act" and name.lower() not in _RANGES)


def _class_counts(model: nn.Module) -> set[int]:
    """The numbers of classes by the attributes of a model."""
    holders = [holder for holder in (model, getattr(model, "config", None)) if holder is not None]
    given = [getattr(holder, name, None) for holder in holders for name in _CLASS_COUNTS]
    return {count for count in given if type(count) is int and count > 0}


def shaping_function(flow: Flow, node: fx.Node) -> str:
    """The name of a function that sets the range of an output, or nothing."""
    module = flow.module(node)
    name = type(module).__name__ if module is not None else function_name(node)
    return name if flow.role(node) in ("act", "gate", "norm") or name in _SHAPING else ""


def function_name(node: fx.Node) -> str:
    """The plain name of a function or method that a step calls: `clamp` for `Tensor.clamp_`."""
    name = getattr(node.target, "__name__", str(node.target))
    return name[2:-2] if name.startswith("__") and name.endswith("__") else name.rstrip("_")
