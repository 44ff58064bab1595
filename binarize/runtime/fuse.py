"""What packed layers do for the modules behind them, while their results are still in the cache."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import fx, nn
from torch.nn import functional as F

from binarize.errors import TraceError
from binarize.graph.rewrite.module_slots import Places
from binarize.graph.trace.dataflow import PASSIVE, Flow
from binarize.graph.trace.recorder import record
from binarize.layers import BiasPReLU, Maxout
from binarize.model_info import plan_of
from binarize.runtime.packed import PackedLayer
from binarize.runtime.pointwise import PointwiseConv2d, is_pointwise
from binarize.runtime.questions import activation_of, can_have_tail, can_interpolate, wants_means, why_not
from binarize.runtime.seen import free, hooked, in_front, steps
from binarize.runtime.stem import StemConv2d, find_stems, join

_STATELESS = (nn.ReLU, nn.Hardtanh)
_LARGEST = 2**26  # elements of inputs that are run: shapes come from files, too


def fuse(model: nn.Module) -> None:
    """Let packed layers do what stands behind or in front of them; in place.

    The activation behind a layer becomes a part of it. A float 1x1 convolution behind it and an interpolated
    map in front of it stay where they are and are done on the way (`binarize.runtime.lazy`). A layer whose
    input is another one's result gets its statistics from there (`binarize.runtime.statistics`). What follows
    a float convolution of few channels is done by that (`binarize.runtime.stem`).

    All are found by runs on inputs of the shapes that the model was converted with, and of larger ones;
    without those, or if such a run fails, nothing is done. Names of parameters and buffers do not change.

    Args:
        model: deployed, in evaluation mode.
    """
    places = Places(model)
    for module in list(model.modules()):
        if type(module) is nn.Conv2d and is_pointwise(module):
            module.__class__ = PointwiseConv2d
    paths = {module: path for path, module in model.named_modules()}
    threads = next((m.options.threads for m in model.modules() if isinstance(m, PackedLayer)), None)
    for kind, layer, taken in _pairs(model):
        if kind == "stem":
            join(layer, taken, threads)
            continue
        if kind == "means":
            if isinstance(layer, StemConv2d) or (isinstance(layer, PackedLayer) and layer.lazy is None):
                taken.take_sums(layer)
            continue
        if kind != "activation":
            parent, _, name = paths[taken].rpartition(".")
            layer.be_lazy(kind, (model.get_submodule(parent), name, taken))
            continue
        layer.take_activation(taken)
        if isinstance(taken, (BiasPReLU, Maxout)):
            taken.done_before = True
        else:
            places.replace(taken, nn.Identity())


class _Pair(NamedTuple):
    """A packed layer (or a stem's convolution) and the module that sees its result (those that do)."""

    kind: Literal["stem", "activation", "behind", "small", "means"]
    layer: Any
    taken: Any


def _pairs(model: nn.Module) -> Iterator[_Pair]:
    """What is there to fuse: stems and activations before all others, means last."""
    plan = plan_of(model)
    shapes = plan.inputs if plan is not None else ()
    if not shapes:
        return
    found = _found(model, shapes)
    if not found:
        return
    # A forward may do other things at other sizes: what is not the same at a second one stays. A model that
    # takes no other size does not matter.
    other = tuple((*shape[:-2], *(n + n // 2 + 32 - n // 2 % 32 for n in shape[-2:])) for shape in shapes)
    again = _found(model, other) if all(len(shape) == 4 for shape in shapes) else None
    yield from found if again is None else [pair for pair in found if pair in again]


def _found(model: nn.Module, shapes: Sequence[Sequence[int]]) -> list[_Pair] | None:
    """The pairs in a run on inputs of these shapes; None if there is no such run."""
    if sum(math.prod(max(n, 1) for n in shape) for shape in shapes) > _LARGEST:
        return None
    try:
        recording = record(model, tuple(torch.zeros(shape) for shape in shapes), module_graphs=False)
    except TraceError:
        return None
    if not recording.fake:  # values decide what is done: a run tells about one input only
        return []
    flow = Flow(model, recording)
    activations: dict[fx.Node, _Pair] = {}
    tails: list[_Pair] = []
    for path, calls in flow.calls.items():
        activation = flow.modules.get(path)
        known = isinstance(activation, (BiasPReLU, Maxout)) or type(activation) in _STATELESS
        if activation is None or not known or activation_of(activation) is None or not free(flow, path):
            continue
        layer = _layer(flow, in_front(flow, calls))
        if layer is not None:
            activations[calls[0]] = _Pair("activation", layer, activation)
    for path, calls in flow.calls.items():
        conv = flow.modules.get(path)
        if not isinstance(conv, PointwiseConv2d) or not free(flow, path):
            continue
        source = in_front(flow, calls)
        layer = activations[source].layer if source in activations else _layer(flow, source)
        if layer is not None and can_have_tail(layer) and _direct(flow, calls[0]):
            tails.append(_Pair("behind", layer, conv))
    stems = {last: _Pair("stem", conv, parts) for conv, parts, last in find_stems(flow)}
    return [
        *stems.values(),
        *activations.values(),
        *tails,
        *_interpolated(flow, activations),
        *_means(flow, activations, stems),
    ]


def _interpolated(flow: Flow, activations: dict[fx.Node, _Pair]) -> Iterator[_Pair]:
    """Packed layers whose result, brought to another size, is the input of another one, and nothing else."""
    for path, calls in flow.calls.items():
        reader = flow.modules.get(path)
        if not isinstance(reader, PackedLayer) or not can_interpolate(reader) or not free(flow, path):
            continue
        node = in_front(flow, calls)
        if node is None or node.op != "call_function" or node.target is not F.interpolate:
            continue
        source = in_front(flow, [node])
        layer = activations[source].layer if source in activations else _layer(flow, source)
        if layer is not None and _direct(flow, calls[0]):
            yield _Pair("small", layer, reader)


def _means(flow: Flow, activations: dict[fx.Node, _Pair], stems: dict[fx.Node, _Pair]) -> Iterator[_Pair]:
    """Packed layers that compute with the channels' means of another one's result, or of a stem's.

    Nothing but changes of shape and dropout stand between the two, and nothing else is done meanwhile.
    """
    order = steps(flow)
    places = {node: place for place, node in enumerate(order)}
    for path, calls in flow.calls.items():
        reader = flow.modules.get(path)
        if not isinstance(reader, PackedLayer) or not wants_means(reader) or len(calls) != 1:
            continue
        node, source = calls[0], flow.source(calls[0])
        while source is not None and places.get(source, -2) == places[node] - 1:
            if source in stems and why_not(reader) is None:
                yield _Pair("means", stems[source].layer, reader)
                break
            layer = activations[source].layer if source in activations else _layer(flow, source)
            if layer is not None:
                if layer.spec.kind != "transposed" and why_not(layer) is None and why_not(reader) is None:
                    yield _Pair("means", layer, reader)
                break
            if flow.role(source) not in PASSIVE:
                break
            node, source = source, flow.source(source)


def _layer(flow: Flow, source: fx.Node | None) -> PackedLayer | None:
    """The packed layer that makes `source`, if that is its only result."""
    layer = flow.module(source) if source is not None else None
    if source is None or not isinstance(layer, PackedLayer) or hooked(layer):
        return None
    path = str(source.target)
    return layer if len(flow.calls[path]) == 1 and not flow.has_aliases(path) else None


def _direct(flow: Flow, call: fx.Node) -> bool:
    """Whether nothing at all is done between the packed layer that a call's input comes from and the call.

    What the layer's result is still to be made of might be changed in place meanwhile.
    """
    order = steps(flow)
    place, node = order.index(call), flow.source(call)
    while node is not None and place > 0 and order[place - 1] is node:
        if isinstance(flow.module(node), PackedLayer):
            return True
        place, node = place - 1, flow.source(node)
    return False
