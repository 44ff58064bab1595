"""An unfinished plan: what has been decided so far about each layer, norm, activation and sum."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import fx, nn

from binarize.errors import TraceError
from binarize.graph.decide.position import Position
from binarize.graph.decide.signs import Ranges, Signs
from binarize.graph.plan import Edit, KeptBy, Swap
from binarize.graph.plan_sentences import Code, Statement
from binarize.graph.trace.dataflow import PASSIVE, Flow
from binarize.graph.trace.layer_step import LayerStep
from binarize.graph.trace.module_graph import ModuleGraph, acts, for_both_modes
from binarize.layers.recipe import Kind, LayerRecipe, Site, recipe_of
from binarize.methods.base import Method
from binarize.methods.float_layer import site_of
from binarize.methods.forms import Form


@dataclass
class Draft:
    """Everything the decisions share.

    Attributes:
        flow: the recorded run.
        position: of its layers.
        method: what the layers become.
        sites: converted layers by name.
        kept: by name for all other layers, what keeps them float and why.
        kept_norms: what happens to the norm behind a layer that stays float, by its name.
        kept_activations: likewise to the activation.
        norms: the decision on a norm, by node: `absorbed`, `removed` or `batch`.
        scales: nodes of layer scale that are removed.
        swaps: modules to replace, by path.
        edits: changes of a module's own graph, by (path, node name).
        rewritable: graphs for training and evaluation of the modules that were examined.
        needs_negatives: whether the method would turn a layer's input without negative values into +1
            everywhere.
        sums_normed: paths of the modules that hold the sums with a norm behind them, one per sum.
        sums_growing: likewise for sums that need a norm and cannot be rewritten.
    """

    flow: Flow
    position: Position
    method: Method
    sites: dict[str, SiteDraft] = field(default_factory=dict)
    kept: dict[str, tuple[KeptBy, Statement]] = field(default_factory=dict)
    kept_norms: dict[str, Statement] = field(default_factory=dict)
    kept_activations: dict[str, Statement] = field(default_factory=dict)
    norms: dict[fx.Node, str] = field(default_factory=dict)
    scales: set[fx.Node] = field(default_factory=set)
    swaps: dict[str, Swap] = field(default_factory=dict)
    edits: dict[tuple[str, str], Edit] = field(default_factory=dict)
    rewritable: dict[str, ModuleGraph] = field(default_factory=dict)
    needs_negatives: dict[Site, bool] = field(default_factory=dict)
    sums_normed: list[str] = field(default_factory=list)
    sums_growing: list[str] = field(default_factory=list)

    @cached_property
    def signs(self) -> Signs:
        """Bounds of the values in the network as it is given."""
        return Signs(self.flow)

    def site_at(self, node: fx.Node | None) -> SiteDraft | None:
        """The converted layer that a node calls, if it does."""
        if node is None or node.op != "call_module":
            return None
        return self.sites.get(str(node.target))

    def direct_site(self, node: fx.Node | None, through: set[str] = PASSIVE) -> SiteDraft | None:
        """The converted layer whose result `node` is, behind layer scale and norms that are removed."""
        while node is not None:
            site = self.site_at(node)
            if site is not None:
                return site
            passes = self.flow.role(node) in through or node in self.scales
            if not passes and self.norms.get(node) not in ("absorbed", "removed"):
                return None
            node = self.flow.source(node)
        return None

    def edit(self, node: fx.Node, edit: Edit) -> bool:
        """Note a change of a module's own graph; False if that graph cannot be changed there."""
        kept = edit.keep if edit.action == "drop" else 0
        given = kept < len(node.args) and isinstance(node.args[kept], fx.Node)  # not by keyword
        if not given or not self.editable(node):
            return False
        if edit.action != "drop" and (not self.used(node) or self.read_again(node)):
            return False  # it works in place, and its replacement would not
        if edit.action in ("drop", "norm") and self._seen_elsewhere(node):
            return False
        self.edits[edit.owner, edit.node] = edit
        return True

    def free_name(self, owner: str, name: str) -> str:
        """`name`, with `_` appended while the module at `owner` has it (from an earlier conversion)."""
        while hasattr(self.flow.modules[owner], name):
            name += "_"
        return name

    def editable(self, node: fx.Node) -> bool:
        """Whether the step `node` can be changed in the graph of the module that makes it."""
        recording = self.flow.recording
        owner, step = node.meta["owner"], node.meta["step"]
        if step is None or owner not in recording.module_graphs or recording.calls.get(owner, 0) > 1:
            return False
        return self._has_graph(owner)

    def put_in_forward(self, path: str, layer: LayerStep) -> str | None:
        """Note that the forward of the layer at `path` is to call a binary layer, or why it cannot."""
        if not self._has_graph(path):
            return self.flow.recording.opaque.pop(path)
        for step in layer.pads:
            self.edits[path, step] = Edit(owner=path, node=step, action="identity")
        self.edits[path, layer.step] = Edit(owner=path, node=layer.step, action="layer")
        return None

    def _has_graph(self, owner: str) -> bool:
        """Whether the forward of the module at `owner` is one graph in training and evaluation."""
        recording = self.flow.recording
        if owner not in self.rewritable:
            try:
                self.rewritable[owner] = for_both_modes(
                    self.flow.modules[owner], recording.module_graphs[owner]
                )
            except TraceError as error:
                recording.opaque[owner] = str(error)
                del recording.module_graphs[owner]
                return False
        return True

    def used(self, node: fx.Node) -> bool:
        """Whether the result of a step is used as such in the graph of the module that makes it, if known."""
        step = self.step_of(node)
        return step is None or bool(step.users)

    def _seen_elsewhere(self, node: fx.Node) -> bool:
        """Whether a step works in place on a value that other steps read by another name."""
        step = self.step_of(node)
        if step is None or step.op == "call_module" or not acts(step):
            return False
        changed = step.args[0]
        if not step.users or not isinstance(changed, fx.Node) or changed.op == "placeholder":
            return True
        return any(step < user for user in changed.users)

    def read_again(self, node: fx.Node) -> bool:
        """Whether an activation works in place on a tensor that is read by its old name afterwards.

        In the run both names are one tensor, so that all its readers use `node`: a single user is the next
        step.
        """
        module, step = self.flow.module(node), self.step_of(node)
        if module is not None:
            in_place = getattr(module, "inplace", False) is True
        else:
            in_place = node.kwargs.get("inplace") is True or True in node.args[1:]
            in_place = in_place or getattr(node.target, "__name__", "").endswith("_")
        if not in_place or len(node.users) <= 1:
            return False
        if step is not None:
            changed = step.args[0] if step.args else None
            known = isinstance(changed, fx.Node) and changed.op != "placeholder"
            return not known or any(step < user for user in changed.users)  # type: ignore[union-attr]
        inside = isinstance(self.flow.modules.get(node.meta["owner"]), nn.Sequential)
        return not inside or str(node.target).rpartition(".")[2] in ("0", "")

    def step_of(self, node: fx.Node) -> fx.Node | None:
        """The step of its module's own graph that a node is, if that graph is known."""
        own_graph = self.flow.recording.module_graphs.get(node.meta["owner"])
        steps = () if own_graph is None else own_graph.graph.nodes
        return next((step for step in steps if step.name == node.meta["step"]), None)

    def why_not_editable(self, node: fx.Node) -> Statement:
        """The reason for `editable` being False."""
        owner = node.meta["owner"]
        where = owner or type(self.flow.model).__name__
        reason = self.flow.recording.opaque.get(owner) or Statement(Code.CALLED_AGAIN)
        return Statement(Code.CANNOT_REWRITE, where, reason)


@dataclass
class SiteDraft:
    """What is decided about one converted layer.

    Attributes:
        name: path in the model.
        module: the float layer.
        nodes: its calls.
        kind: see `Kind`.
        context: the fields of `Site` that only a graph knows.
        norm: what happens to the norm.
        absorbs: path of the norm module that the layer takes over, or None.
        activation: what happens to the activation behind it.
        form: of a layer whose class has a forward of its own.
        tail: the node that carries the layer's normalized result.
        bypass: the layer brings its bypass.
        bypass_reason: why it does not, although its method has one there.
        residual: what happens to the sum around it.
        nonnegative: see `Site`.
        values: the set of its activations, where that is not the usual one of the method.
        constant: why its activations would be the same on some channels, whatever the input: `sign` where
            nothing is negative, `step` where everything is positive, or nothing.
    """

    name: str
    module: nn.Module
    nodes: list[fx.Node]
    kind: Kind
    form: Form | None = None
    context: dict[str, Any] = field(default_factory=dict)
    norm: list[Statement] = field(default_factory=list)
    absorbs: str | None = None
    activation: Statement = field(default_factory=lambda: Statement(Code.NONE))
    tail: fx.Node | None = None
    bypass: bool = False
    bypass_reason: Statement | str = ""
    residual: Statement | str = ""
    nonnegative: Ranges = ()
    values: str = ""
    constant: str = ""
    _site: tuple[Any, Site] | None = field(default=None, init=False, repr=False)

    def site(self) -> Site:
        """The site as the method sees it."""
        known = (self.nonnegative, *self.context.items())
        if self._site is None or self._site[0] != known:  # it is used some twenty times
            made = site_of(
                self.module, kind=self.kind, form=self.form, nonnegative=self.nonnegative, **self.context
            )
            self._site = known, made
        return self._site[1]

    def recipe(self, method: Method) -> LayerRecipe:
        """The method's parts for this layer."""
        return recipe_of(method, self.site())

    def strided(self) -> bool:
        """The layer's output has other positions than its input."""
        site = self.site()
        return site.transposed or any(s > 1 for s in site.stride)

    def lose_bypass(self, reason: Code) -> None:
        """Leave the bypass out, for this reason."""
        if self.bypass:
            self.bypass, self.bypass_reason = False, Statement(reason)
