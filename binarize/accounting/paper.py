"""The convention `paper`: how Tables 1 and 4 of BiDense (arXiv 2411.10346) count.

The paper says that Params = binary / 32 + float and OPs = binary / 64 + float. What it counts was found out
from the printed figures; the rules go by the kind of a layer and its place in the run, for any network.

Parameters
  - Everything in the state dict: parameters, and buffers too (2 C + 1 of a batch norm).
  - What belongs to a module that is called n times counts n times.
  - Binary are the weights of binary layers and, in a network that has such layers, the weight of its final
    layer, although it is float.

Operations (in the columns for multiply-accumulates)
  - 2 per multiply-accumulate; convolutions count as if they had one group.
  - Binary are binary layers and, in a network that has such layers, its first and its final layer.
  - A head that works at the resolution of the image is left out: all that follows the last layer at a
    lower resolution.
  - Elementwise, all float: normalization 2 per output element; ReLU 1; any other activation 5 (GELU,
    learnable bias + PReLU, Maxout), one more for one more bias; pooling 1 per input element.
  - Of a binary layer, per output element: the scale of the weights 1 (AdaBin 2, scale and centre) and the
    quantizer: sign 0, a shift 1, redistribution 2, AdaBin 4, DAB 4: mean, threshold, mean absolute
    deviation and scale, 1 each where the variant has them.
  - Of a bypass that changes channels: 1 per element that is a copy and 1 per element that is merged.
  - Additions of residuals and bypasses, biases of convolutions and interpolation: 0.

What is reproduced, at 480x480 with 151 classes: every figure for parameters of both tables; the operations
of BiDense and of its eight ablations. The operations printed for the other four binary networks are lower by
0.10 to 0.12 G each, those of the float network by 6.8 G (2.4 %): they agree with the same rules and 288.1 G
instead of 294.9 G in convolutions. No rule on layers was found to explain that difference, and none was made
up.
"""

from __future__ import annotations

import math

from torch import nn

from binarize.accounting.honest import find_uncounted
from binarize.accounting.record import Event, Recording
from binarize.accounting.report import LayerCount, Uncounted
from binarize.accounting.tally import Tally
from binarize.functional import AdaBinWeights, SteSign
from binarize.layers import (
    DAB,
    AdaBinSign,
    ApproxSignQuantizer,
    BiasPReLU,
    BinaryLayer,
    Bypass,
    Maxout,
    Redistribution,
    RPReLU,
    ShiftedSignQuantizer,
    SignSTE,
)

WHOLE = (BiasPReLU, Maxout, Bypass)
"""Modules that are counted as one, not by the operations inside."""

_MACS = ("conv", "linear", "matmul", "attention")


def count_as_paper(
    model: nn.Module, recording: Recording
) -> tuple[tuple[LayerCount, ...], tuple[Uncounted, ...]]:
    """The layers of `model` as counted by this convention, and what could not be counted."""
    tally = Tally(model)
    events = _below_image_resolution(recording)
    weighted = [e for e in recording.events if e.work is not None and e.work.kind in ("conv", "linear")]
    is_binary_network = any(isinstance(m, BinaryLayer) for m in tally.modules.values())
    ends = {weighted[0].path, weighted[-1].path} if is_binary_network and weighted else set()
    final = weighted[-1].path if is_binary_network and weighted else None
    _count_state(tally, recording, final)
    for event in events:
        module = tally.modules.get(event.path)
        count = tally.at(event.path)
        if event.work is None:
            count.float_work += _whole(module, event)
        elif event.work.kind in _MACS:
            work = 2 * event.work.macs * event.work.groups
            if isinstance(module, BinaryLayer):
                count.binary_work += work
                quantizer = _quantizer(module)
                if quantizer is None:
                    reason = f"no rule counts the quantizer {type(module.quantizer).__name__}"
                    recording.uncounted.append((event.path, reason))
                count.float_work += event.work.elements * ((quantizer or 0) + _weight_scale(module))
            elif event.path in ends:
                count.binary_work += work
            else:
                count.float_work += work
        elif not isinstance(module, (BiasPReLU, Maxout)):
            count.float_work += event.work.elements * _elementwise(event)
    uncounted = find_uncounted(tally, recording)
    tally.add_packed_bytes()
    return tally.layers(), uncounted


def _below_image_resolution(recording: Recording) -> list[Event]:
    """The events up to the last one at fewer positions than the image has, in a network that has any."""
    image = recording.input_positions
    last = len(recording.events)
    for index in reversed(range(len(recording.events))):
        event = recording.events[index]
        if event.work is not None and event.work.positions < image:
            last = index + 1
            break
    # a call as a whole ends behind the operations inside it
    inside = recording.events[last : last + 1]
    return recording.events[: last + (1 if inside and inside[0].work is None else 0)]


def _count_state(tally: Tally, recording: Recording, final: str | None) -> None:
    for path, name, parameter, binary in tally.parameters():
        times = max(1, recording.calls[tally.owner(path)])
        if binary or (path == final and name == "weight"):
            tally.at(path).binary_params += times * parameter.numel()
        else:
            tally.at(path).float_params += times * parameter.numel()
    for path, module in tally.modules.items():
        times = max(1, recording.calls[tally.owner(path)])
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                tally.at(path).float_params += times * buffer.numel()


def _elementwise(event: Event) -> int:
    """Operations per element of a normalization, activation or pooling."""
    if event.work is None or event.work.kind == "pool":
        return 1
    if event.work.kind == "norm":
        return 2
    return 1 if event.work.name == "relu" else 5


def _whole(module: nn.Module | None, event: Event) -> int:
    """Operations of a module that is counted as one."""
    if isinstance(module, Bypass):
        return _bypass(module, event)
    return math.prod(event.output) * (6 if isinstance(module, RPReLU) else 5)


def _bypass(module: Bypass, event: Event) -> int:
    """1 per copied and 1 per merged element, at the positions of the output."""
    cin, cout = module.in_channels, module.out_channels
    if cin == cout:
        return 0
    positions = math.prod(event.output) // cout
    copied = cout // cin * cin
    merged = cin if cout % cin else 0
    return positions * (copied + merged)


def _quantizer(layer: BinaryLayer) -> int | None:
    """Operations per output element of what makes a layer's activations binary; None without a rule."""
    quantizer = layer.quantizer
    if isinstance(quantizer, DAB):
        rule = quantizer.rule
        mean = rule.threshold in ("adaptive", "mean")
        deviation = rule.scale in ("adaptive", "mad")
        return mean + (rule.threshold != "none") + deviation + (rule.scale != "none")
    if isinstance(quantizer, AdaBinSign):
        return 4
    if isinstance(quantizer, Redistribution):
        return 2
    if isinstance(quantizer, (SignSTE, ApproxSignQuantizer)):
        return 0
    return 1 if isinstance(quantizer, ShiftedSignQuantizer) else None


def _weight_scale(layer: BinaryLayer) -> int:
    """Operations per output element of the numbers beside the signs of a layer's weights."""
    if isinstance(layer.weight_rule, AdaBinWeights):
        return 2
    return 0 if isinstance(layer.weight_rule, SteSign) else 1
