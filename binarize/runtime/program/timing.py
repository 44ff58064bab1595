"""What each step of a program is called, and how much binary work it does: for measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from binarize.native import structs
from binarize.runtime import ops
from binarize.runtime.layer_data import spec_of_text
from binarize.runtime.program.graph import place_of, shape_of
from binarize.runtime.program.lowering import NativeStep, TorchStep
from binarize.runtime.spec import PackedSpec

PACKED = "packed "
"""Prefix of the kinds of packed layers."""
_NAMES = {number: name.replace("_", " ") for name, number in structs.STEPS.items()}


@dataclass(frozen=True)
class StepTime:
    """One step of one call.

    Attributes:
        kind: of a packed layer, as `kind_of_layer`; a kind of step of the library; or torch's operator.
        place: path of the module whose operator it is.
        seconds: that it took alone, in one call of the library.
        macs: multiply-accumulates of one bit.
    """

    kind: str
    place: str
    seconds: float
    macs: int = 0


def step_times(
    graph: fx.Graph, steps: Sequence[NativeStep | TorchStep], seconds: Sequence[float]
) -> list[StepTime]:
    """The steps of one call with their times."""
    nodes = list(graph.nodes)
    return [
        StepTime(*_described(step, nodes[step.index]), spent, _macs(step, nodes[step.index]))
        for step, spent in zip(steps, seconds, strict=True)
    ]


def kind_of_layer(spec: PackedSpec) -> str:
    """`packed 3x3`, `packed depthwise 3x3`, `packed grouped 3x3`, `packed linear`; `packed 3x3 W2A3`."""
    bits = f" W{spec.weight_planes}A{spec.quantizer.planes}" if spec.sum_of_binary else ""
    if not spec.kernel:
        return f"{PACKED}linear{bits}"
    size = "x".join(map(str, spec.kernel))
    alone = spec.groups == spec.in_channels == spec.out_channels
    grouped = "" if spec.groups == 1 else "depthwise " if alone else "grouped "
    return f"{PACKED}{grouped}{size}{bits}"


def binary_macs(spec: PackedSpec, given: Sequence[int], positions: int) -> int:
    """Products of bits in one call; padded positions count too.

    Args:
        spec: of the layer.
        given: shape of its input.
        positions: of its output, over all images.
    """
    taps = math.prod(spec.kernel) * spec.weight_planes * spec.quantizer.planes
    if spec.kind == "transposed":
        return math.prod(given) * spec.out_channels // spec.groups * taps
    return positions * spec.out_channels * spec.in_channels // spec.groups * taps


def _is_layer(step: NativeStep | TorchStep, node: fx.Node) -> bool:
    """Whether a step is the packed layer itself, and nothing beside it, such as a copy."""
    if node.target is not ops.layer:
        return False
    if isinstance(step, NativeStep):
        return step.kind == structs.STEPS["layer"]
    return step.what == str(ops.layer)


def _described(step: NativeStep | TorchStep, node: fx.Node) -> tuple[str, str]:
    if _is_layer(step, node):
        return kind_of_layer(spec_of_text(str(node.args[3]))), place_of(node)
    if isinstance(step, NativeStep):
        return _NAMES[step.kind], place_of(node)
    operator = step.what.partition(".")[2].partition(".")[0] or step.what
    return f"torch {operator}", place_of(node)


def _macs(step: NativeStep | TorchStep, node: fx.Node) -> int:
    if not _is_layer(step, node):
        return 0
    spec = spec_of_text(str(node.args[3]))
    planes: Any = node.kwargs  # a plane of bits stands for a map
    ours, given = planes.get("next_plane"), planes.get("plane")
    made = tuple(ours[:4]) if ours else tuple(node.meta["val"][0].shape)
    x = tuple(given[:4]) if given else shape_of(node.all_input_nodes[0])
    channels = made[-1 if spec.kind == "linear" else 1]
    return binary_macs(spec, x, math.prod(made) // max(channels, 1))
