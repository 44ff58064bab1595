"""Layers whose weights are constants: fixed filters that happen to be written as a frozen convolution."""

from __future__ import annotations

from collections.abc import Set

import torch
from torch import Tensor, fx, nn

from binarize.graph.trace.dataflow import Flow

_FEW = 600
"""Values of a pattern: a bilinear kernel of 64 x 64 has 528, twice 700 learnt ones in bfloat16 have 700."""


def fixed_layers(flow: Flow) -> set[str]:
    """Names of the layers whose weight is a constant of the network, not learnt.

    A weight that takes no gradient is not enough: a frozen encoder has been trained before. Of the frozen
    layers those are fixed that hold a pattern (ramps as in YOLO's distribution focal loss, binomial blurs,
    identities of a mean shift, bilinear kernels), and those that are alone between layers that are trained.
    A frozen layer that makes many channels of the input is a stem: the first layers of a network are frozen
    for fine-tuning; a change of colours or a blur has no more outputs than inputs.
    """
    frozen = {name: module for name in flow.calls if _is_frozen(module := flow.modules[name])}
    if not frozen:
        return set()
    trained = any(p.requires_grad for p in flow.model.parameters())
    return {
        name
        for name, module in frozen.items()
        if _has_pattern(module) or (trained and _stands_alone(flow, name, frozen.keys()))
    }


def _is_frozen(module: nn.Module) -> bool:
    if not isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
        return False
    weight, bias = module._parameters.get("weight"), module._parameters.get("bias")
    return weight is not None and not weight.requires_grad and (bias is None or not bias.requires_grad)


def _has_pattern(module: nn.Module) -> bool:
    """Whether a weight repeats a few values, or is a range of equally spaced ones.

    Learnt values are all different in float32; those that were stored in 16 bits repeat in large layers, but
    are more than a few.
    """
    weight = module._parameters["weight"]
    if weight is None or weight.is_meta or not weight.numel():
        return False
    values = weight.detach().reshape(-1)[: 1 << 16].float()
    if not bool(values.any()):  # a projection that starts from zero
        return False
    different = torch.unique(values).numel()
    return different <= min(values.numel() // 2, _FEW) or _counts(values)


def _counts(values: Tensor) -> bool:
    """Whether values are equally spaced, as bins are."""
    steps = values.diff()
    if steps.numel() < 2 or not bool(steps.any()):
        return False
    return bool(torch.allclose(steps, steps[:1].expand_as(steps), rtol=1e-4, atol=0.0))


def _stands_alone(flow: Flow, name: str, frozen: Set[str]) -> bool:
    """Whether all layers next to a layer are trained, and it is not a stem."""
    front, behind = (_nearest(flow, name, step) for step in ("all_input_nodes", "users"))
    weight = flow.modules[name]._parameters["weight"]
    stem = not front and weight is not None and weight.shape[0] > weight.shape[1]
    return not stem and not (front | behind) & frozen


def _nearest(flow: Flow, name: str, step: str) -> set[str]:
    """The layers in front of (`all_input_nodes`) or behind (`users`) a layer, with no other layer between."""
    found: set[str] = set()
    seen: set[fx.Node] = set()
    queue = [other for node in flow.calls[name] for other in getattr(node, step)]
    while queue:
        other = queue.pop()
        if other in seen:
            continue
        seen.add(other)
        if flow.is_layer(other):
            found.add(str(other.target))
        else:
            queue += getattr(other, step)
    return found - {name}
