"""The entries of a plan: layers, replaced modules, changes of forwards, outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from binarize.earlier_names import earlier_fields
from binarize.graph.plan_sentences import Code, Statement
from binarize.layers import AttentionShapes

KeptBy = Literal["", "policy", "method", "layer", "unused"]


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """What happens to one convolution or linear layer.

    Attributes:
        name: path in the model.
        kind: `conv2d`, `dw conv2d` (depthwise), `grouped conv2d`, `linear`...
        in_shape: of the example run; empty if it did not reach the layer.
        out_shape: likewise.
        weight_shape: of the float layer.
        converted: becomes binary.
        reason: why not, or its position.
        kept_by: what keeps it float: `policy`, `method` (it refuses such a layer), `layer` (there is no
            binary replacement for it, or its weight is used without calling it) or `unused` (the run did not
            reach it); empty if converted.
        bypass: its kind; `units` where a method builds the layer from several bypassed ones.
        bypass_reason: why there is none although the method has one.
        norm: what happens to the norm behind and in front.
        activation: what happens to the activation behind.
        residual: what happens to the sum around it.
        site_kind: `conv`, `pointwise` or `token`.
        context: what the method knows about the surroundings.
        absorbs: path of the norm module that the layer takes over.
        nonnegative: input channels [start, stop) whose values are never negative.
        activations: the set of its binary activations, such as `{0, 1}`; empty for the method's usual one.
    """

    name: str
    kind: str
    in_shape: tuple[int, ...] = ()
    out_shape: tuple[int, ...] = ()
    weight_shape: tuple[int, ...] = ()
    converted: bool = False
    reason: Statement | str = ""
    kept_by: KeptBy = ""
    bypass: str = "none"
    bypass_reason: Statement | str = ""
    norm: str = ""
    activation: Statement | str = ""
    residual: Statement | str = ""
    site_kind: str = ""
    context: tuple[tuple[str, bool], ...] = ()
    absorbs: str | None = None
    nonnegative: tuple[tuple[int, int], ...] = ()
    activations: str = ""

    @property
    def code(self) -> Code | None:
        """The code of the reason, if there is one."""
        return Statement.read(self.reason).code if self.reason else None


@earlier_fields(blinds="removes_sign_information")
@dataclass(frozen=True, kw_only=True)
class Swap:
    """Replace the module at `path`.

    Attributes:
        path: in the model.
        to: `identity`; `batch_norm`; `activation`: the method's own; `unfuse`: what a fused norm held beside
            the norm (dropout, and the method's or its own activation); `inner_act`: the activation inside a
            norm that stays; `no_inner_act`: none there; `drop_act`: nothing but a fused dropout;
            `input_norm`: a BatchNorm in front of the float layer there, which stays.
        channels: C of a norm or activation.
        dim: channel dimension, 1 or -1.
        spatial: number of spatial dims.
        spatial_between: see `ActivationSite`.
        removes_sign_information: see `ActivationSite`.
        own: keep the network's own activation in an `unfuse`.
    """

    path: str
    to: str
    channels: int = 0
    dim: int = 1
    spatial: int = 2
    spatial_between: bool = False
    removes_sign_information: bool = False
    own: bool = True


@dataclass(frozen=True, kw_only=True)
class AttentionPlan:
    """What happens to one attention, if the method is to make attention binary.

    Attributes:
        name: path of the module whose forward computes it.
        step: name of the step of that forward that gives its result.
        query: shape of the queries in the example run, (N, ..., L, D); empty if they are not known.
        key: likewise, (N, ..., S, D).
        value: likewise, (N, ..., S, E).
        converted: its two products become binary.
        reason: why not.
    """

    name: str
    step: str = ""
    query: tuple[int, ...] = ()
    key: tuple[int, ...] = ()
    value: tuple[int, ...] = ()
    converted: bool = False
    reason: Statement | str = ""


@dataclass(frozen=True, kw_only=True)
class AttentionSwap:
    """Binary attention in a forward.

    Attributes:
        module: name of the new `BinaryAttention` in the owner.
        scores: name of the step that multiplies queries and keys, which the module's `scores` replaces, as
            its `context` does the step of the edit; empty if that step is a call for the whole, which the
            module replaces.
        shapes: of the quantizers' parameters.
    """

    module: str
    scores: str = ""
    shapes: AttentionShapes


@dataclass(frozen=True, kw_only=True)
class Edit:
    """Change one node of the own graph of the module at `owner`.

    Attributes:
        owner: path of the module.
        node: name of the node.
        action: `drop`: its value is that of argument `keep`; `activation`: a new module is called on
            argument 0; `norm`: a new module is called on the node's own value;
            `identity`: its value is that of argument 0; `layer`: it applies the weight of the layer at
            `owner`, and the binary layer is called on its input instead; `attention`: the products of
            attention, of which it is the last step, become binary.
        keep: see `action`.
        fixed: parameters of the forward that the graph holds at their defaults.
        lists: parameters that are lists or tuples, with the name of their type and their length.
        constants: names and values of what is passed in `**kwargs` beside tensors.
        tensors: names of the tensors there.
        activation: describes the new activation or norm (its `path` is its name in the owner).
        attention: describes binary attention.
    """

    owner: str
    node: str
    action: str
    keep: int = 0
    fixed: tuple[str, ...] = ()
    lists: tuple[tuple[str, str, int], ...] = ()
    constants: tuple[tuple[str, Any], ...] = ()
    tensors: tuple[str, ...] = ()
    activation: Swap | None = None
    attention: AttentionSwap | None = None


@dataclass(frozen=True, kw_only=True)
class OutputPlan:
    """The last layers of one output.

    Attributes:
        name: its path in the network's result, such as `logits` or `aux.0`; `output` for a tensor alone;
            `head (dropped)` for what the example run computes by layer `head` and does not return.
        shape: of the example run.
        features: it is the input of another network: none of its layers is a last one.
        final: paths of its last layers; of weights that a function is called with, their names.
        kept: those of them that stay float.
        functions: what the network does to their results that sets their range, in the order of the run.
        changed: those functions of features that the method replaces.
    """

    name: str
    shape: tuple[int, ...] = ()
    features: bool = False
    final: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
