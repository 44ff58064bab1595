"""What is known of a model after one recorded run."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import fx

from binarize.graph.trace.layer_step import LayerStep
from binarize.graph.trace.module_graph import ModuleGraph
from binarize.methods.forms import Form


@dataclass
class Recording:
    """A flat graph of one run, and what the run showed of the model.

    Every node's meta holds `role`, `owner` (path of the module whose forward made the step), `step` (name of
    the node in that module's own graph, or None), `shape`, and `constant` (computed from parameters only);
    that of a constant of known values `bounds` (least, largest).

    Attributes:
        graph: `call_module` per layer, norm, activation...; `call_function` for the rest.
        module_graphs: own graphs by path, for the modules that can be rewritten.
        opaque: reasons by path, for those that cannot.
        calls: number of calls per module path.
        outputs: the path of each tensor of the result in it (`logits`, `aux.0`), in the graph's order.
        read: parameters and buffers that functions were called with.
        computed: those of them whose values a function wanted, not only their shape, dtype or device.
        parameters: names of the model's.
        fake: the run was on fake tensors.
        written: parameters and buffers that the run wrote to or replaced, and whose forward did so (a path).
        sets_memory: the run was on real tensors because a forward sets `.data`.
        own: form of each layer with a forward of its own, or the reason that it has none.
        layer_steps: of those without a form, the step of their forward that is the layer, or the reason that
            none is.
    """

    graph: fx.Graph
    module_graphs: dict[str, ModuleGraph] = field(default_factory=dict)
    opaque: dict[str, str] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    read: set[str] = field(default_factory=set)
    computed: set[str] = field(default_factory=set)
    parameters: frozenset[str] = frozenset()
    fake: bool = True
    written: dict[str, str] = field(default_factory=dict)
    sets_memory: bool = False
    own: dict[str, Form | str] = field(default_factory=dict)
    layer_steps: dict[str, LayerStep | str] = field(default_factory=dict)

    @property
    def writes_parameters(self) -> bool:
        """Whether forwards of the model change its parameters."""
        return bool(self.parameters & self.written.keys())
