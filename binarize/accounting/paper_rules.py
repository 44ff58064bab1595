"""Operations of one layer under the convention `paper`; the rules are in `binarize.accounting.paper`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import nn

from binarize.accounting.record import Event
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
    Quantizer,
    Redistribution,
    ShiftedSignQuantizer,
    SignForm,
    SignSTE,
    StepSTE,
)

WHOLE = (BiasPReLU, Maxout, Bypass)
"""Modules that are counted as one, not by the operations inside."""

PRODUCTS = ("conv", "linear", "matmul", "attention")
"""Kinds of work that consist of multiply-accumulates."""

_PIECEWISE_LINEAR = ("relu", "hardtanh", "hardsigmoid", "leaky_relu", "prelu", "_prelu_kernel")

ItemKind = Literal["product", "quantizer", "norm", "activation", "pool", "bypass", "add", "mul"]


@dataclass(frozen=True, kw_only=True)
class Item:
    """Operations of one kind in one call of one layer.

    Attributes:
        path: of the module.
        layer: path of the layer that it is counted under.
        kind: `quantizer` includes the scale of the weights.
        each: operations per element.
        elements: number of elements counted; for a product, its multiply-accumulates.
        positions: output elements per channel.
        inputs: of a product, elements of its input.
        binary: 64 of these operations count as one.
    """

    path: str
    layer: str
    kind: ItemKind
    each: int
    elements: int
    positions: int
    inputs: int = 0
    binary: bool = False


def items_of(tally: Tally, event: Event, stand_in: BinaryLayer | None) -> Iterator[Item]:
    """The operations of an event.

    Args:
        tally: of the network.
        event: a layer's work, or the call of a module that is counted as one.
        stand_in: the binary layer that a float layer is counted as, or None.
    """
    path, layer, work = event.path, tally.owner(event.path), event.work
    module = tally.modules.get(path)

    def item(kind: ItemKind, each: int, elements: int, positions: int) -> Item:
        return Item(path=path, layer=layer, kind=kind, each=each, elements=elements, positions=positions)

    if work is None:
        elements, positions = math.prod(event.output), positions_of(event)
        if isinstance(module, Bypass):
            positions = elements // module.out_channels
            yield item("bypass", 1 + (module.in_channels != module.out_channels), elements, positions)
        else:
            yield item("activation", 2, elements, positions)
    elif work.kind in PRODUCTS:
        binary = module if isinstance(module, BinaryLayer) else stand_in
        yield Item(
            path=path,
            layer=layer,
            kind="product",
            each=2,
            elements=work.macs * work.groups * math.prod(bits_of(binary)),
            positions=work.positions,
            inputs=work.inputs,
            binary=binary is not None,
        )
        if binary is not None:
            each = (count_quantizer(binary.quantizer) or 0) + _weight_scale(binary)
            yield item("quantizer", each, work.channels * work.positions, work.positions)
    elif work.kind == "pool":
        yield item("pool", work.window + 1, work.elements, work.positions)
    elif work.kind == "norm":
        yield item("norm", 2, work.elements, work.positions)
    elif work.kind == "activation":
        yield item("activation", _activation(work.name), work.elements, work.positions)
    elif work.kind in ("add", "mul"):
        yield item(work.kind, 1, work.elements, work.positions)


def positions_of(event: Event) -> int:
    """Output elements per channel of an event."""
    if event.work is not None:
        return event.work.positions
    shape = event.output
    return math.prod(shape) // max(1, shape[1] if len(shape) > 1 else 1)


def bits_of(layer: BinaryLayer | None) -> tuple[int, int]:
    """Of a weight and of an activation; 1 for a float layer."""
    return (1, 1) if layer is None else (layer.weight_rule.planes, getattr(layer.quantizer, "planes", 1))


def count_quantizer(quantizer: nn.Module) -> int | None:
    """Operations per element of a layer's activation quantizer; None without a rule."""
    if isinstance(quantizer, DAB):
        rule = quantizer.rule
        mean = rule.threshold in ("adaptive", "mean")
        deviation = rule.scale in ("adaptive", "mad")
        return mean + (rule.threshold != "none") + deviation + (rule.scale != "none")
    if isinstance(quantizer, AdaBinSign):
        return 4
    if isinstance(quantizer, Redistribution):
        return 2
    if isinstance(quantizer, (SignSTE, StepSTE, ApproxSignQuantizer)):
        return 0
    if isinstance(quantizer, ShiftedSignQuantizer):
        return 1
    if isinstance(quantizer, Quantizer) and quantizer.planes > 1:
        return 2**quantizer.planes - 1  # thresholds
    form = quantizer.sign_form() if isinstance(quantizer, Quantizer) else None
    if not isinstance(form, SignForm):
        return None
    return sum(part is not None for part in (form.scale, form.shift, form.factor))


def _weight_scale(layer: BinaryLayer) -> int:
    """Operations per element of the scale and centre of a layer's binary weights."""
    if isinstance(layer.weight_rule, AdaBinWeights):
        return 2
    return 0 if isinstance(layer.weight_rule, SteSign) else 1


def _activation(name: str) -> int:
    if name in _PIECEWISE_LINEAR:
        return 1
    return 4 if name == "sigmoid" else 7
