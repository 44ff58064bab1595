"""Convolution and linear subclasses whose forward does more than a layer: finding the layer among its steps.

A norm, an activation or a slice inside such a forward are steps of the network like those of any module. The
function that is called with the layer's weight is the layer; padding in front of it belongs to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx, nn
from torch.fx.node import map_aggregate

from binarize.errors import TraceError
from binarize.graph.trace.roles import module_role
from binarize.methods.float_layer import own_form
from binarize.methods.forms import DENSE, Form, NoFormError, Pads, arguments_of, form_of_call, padded

_READS = {"size", "dim", "numel", "shape", "dtype", "device", "ndim"}


@dataclass(frozen=True)
class LayerStep:
    """The layer in the graph of its own forward.

    Attributes:
        step: name of the node that applies the weight.
        pads: names of the nodes that pad its input.
        form: of both.
    """

    step: str
    pads: tuple[str, ...]
    form: Form


def own_forms(model: nn.Module) -> dict[str, Form | str]:
    """The forms of the layers of `model` that have forwards of their own, or why they have none."""
    found: dict[str, Form | str] = {}
    for path, module in model.named_modules():
        if module_role(module) in ("conv", "linear"):
            try:
                form = own_form(module)
            except NoFormError as error:
                found[path] = str(error)
            else:
                if form is not None:
                    found[path] = form
    return found


def find_layer_step(graph: fx.Graph, layer: nn.Module) -> LayerStep:
    """The layer in `graph`, its own forward's.

    Raises:
        TraceError: the weight is not applied unchanged and exactly once.
    """
    step, given = _step(graph)
    bias = given.get("bias")
    if bias is not None and not _is_attribute(bias, "bias"):
        raise TraceError("its forward changes its bias")
    for name in ("weight", "bias") if bias is not None else ("weight",):
        for node in graph.nodes:
            if _is_attribute(node, name) and not all(
                user is step or _only_reads(user) for user in node.users
            ):
                raise TraceError(f"its forward uses its {name} for more than applying it")
    plain = {name: value for name, value in given.items() if name not in ("input", "weight", "bias")}
    if any(isinstance(n, fx.Node) for n in map_aggregate(list(plain.values()), lambda v: v)):
        raise TraceError("the stride or padding of its convolution depends on its input")
    try:
        form, own = form_of_call({**given, "name": step.target.__name__}, layer)  # type: ignore[union-attr]
        names, pads, mode = _pads(given["input"], own, layer, form)
    except (NoFormError, TypeError, ValueError) as error:
        raise TraceError(f"its forward {error}") from None
    return LayerStep(step.name, names, Form(**{**vars(form), "pads": pads, "mode": mode}))


def _step(graph: fx.Graph) -> tuple[fx.Node, dict[str, Any]]:
    """The node that applies the weight, and its arguments by name."""
    found = []
    for node in graph.nodes:
        name = getattr(node.target, "__name__", "")
        if node.op == "call_function" and name in DENSE:
            given = arguments_of(name, node.args, node.kwargs)
            if _is_attribute(given.get("weight"), "weight"):
                found.append((node, given))
    if len(found) != 1:
        raise TraceError("its forward does not apply its weight unchanged and exactly once")
    if not isinstance(found[0][1].get("input"), fx.Node):
        raise TraceError("its forward does not apply its weight to its input")
    return found[0]


def _is_attribute(node: Any, name: str) -> bool:
    return isinstance(node, fx.Node) and node.op == "get_attr" and node.target == name


def _only_reads(node: fx.Node) -> bool:
    """Whether a step reads a shape, a dtype or a device."""
    if node.op == "call_method":
        return node.target in _READS
    return node.target is getattr and len(node.args) > 1 and node.args[1] in _READS


def _pads(value: fx.Node, own: Pads, layer: nn.Module, form: Form) -> tuple[tuple[str, ...], Pads, str]:
    """The padding steps directly in front that belong to the layer, and their sum with its own padding."""
    names: list[str] = []
    steps: list[tuple[list[int], str]] = []
    pads, mode = padded([], own, layer)
    while len(value.users) == 1:
        found = _padding(value, layer)
        if found is None:
            break
        try:
            pads, mode = padded([*steps, found], own, layer)
        except NoFormError:  # it stays a step of its own
            break
        steps.append(found)
        names.append(value.name)
        value = value.args[0]  # type: ignore[assignment]
    return tuple(names), pads, mode


def _padding(node: fx.Node, layer: nn.Module) -> tuple[list[int], str] | None:
    """The amounts, in the order of F.pad, and the mode, if `node` pads as layers can."""
    if not node.args or not isinstance(node.args[0], fx.Node):
        return None
    if node.op == "call_module":
        module: Any = layer.get_submodule(str(node.target))
        if isinstance(module, nn.Identity):
            return [], "constant"
        if module_role(module) != "pad" or getattr(module, "value", 0):
            return None
        kinds = {"Reflection": "reflect", "Replication": "replicate", "Circular": "circular"}
        mode = next(
            (mode for name, mode in kinds.items() if type(module).__name__.startswith(name)), "constant"
        )
        return list(module.padding), mode
    if node.op != "call_function" or getattr(node.target, "__name__", "") != "pad":
        return None
    names = ("input", "pad", "mode", "value")
    given: dict[str, Any] = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    mode, amounts = given.get("mode", "constant"), given["pad"]
    if given.get("value") or isinstance(mode, fx.Node):
        return None
    if not isinstance(amounts, (tuple, list)) or not all(type(n) is int for n in amounts):
        raise TraceError("its forward pads by the size of its input, by a rule that is not known here")
    return list(amounts), mode
