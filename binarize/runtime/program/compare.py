"""Each step of a program against its operator's definition, on the values that the step reads."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx.node import map_arg

from binarize.runtime.program.executor import Program, tensors_in
from binarize.runtime.program.graph import operator_name, place_of
from binarize.runtime.program.recorded import definition

CLOSE = 1e-5
"""Relative to the largest value of a result: what the order of sums explains."""


@dataclass(frozen=True)
class StepError:
    """One operator of one call.

    Attributes:
        operator: its name.
        place: path of the module whose operator it is.
        worst: largest abs(difference) / largest abs(value).
        beyond: share of values further off than `CLOSE`. A value that lies on a threshold to the last digit
            can fall to either side.
    """

    operator: str
    place: str
    worst: float
    beyond: float


def compare(program: Program, inputs: Sequence[Tensor | None], threads: int = 1) -> list[StepError]:
    """How far each operator of a call is from what the dispatcher computes, in the order of the graph.

    Every step runs where it does in a call: on planned memory, on what the steps in front of it left there.

    Args:
        program: to look at.
        inputs: as prepared.
        threads: of the kernels.

    Raises:
        NotFiniteError: the network has to run as modules.
        NativeError: the library refuses a step.
    """
    found: list[StepError] = []
    for node, value_of in program.walk(inputs, threads):
        if node.target is operator.getitem:
            continue
        args, kwargs = map_arg((node.args, node.kwargs), value_of)
        expected = tensors_in(definition(node)(*args, **kwargs))
        pairs = zip(tensors_in(value_of(node)), expected, strict=True)
        errors = [_error(ours, wanted) for ours, wanted in pairs]
        worst, beyond = (max((error[i] for error in errors), default=0.0) for i in (0, 1))
        found.append(StepError(operator_name(node), place_of(node), worst, beyond))
    return found


def _error(ours: Tensor, wanted: Tensor) -> tuple[float, float]:
    if ours.shape != wanted.shape or ours.dtype != wanted.dtype:
        return float("inf"), 1.0
    if not wanted.numel():
        return 0.0, 0.0
    if not wanted.is_floating_point():
        differ = (ours != wanted).float().mean().item()
        return float(differ > 0), differ
    largest = wanted.abs().nan_to_num().max().clamp_min(torch.finfo(wanted.dtype).tiny)
    same = (ours == wanted) | (ours.isnan() & wanted.isnan())
    off = ((ours - wanted).abs() / largest).nan_to_num(torch.inf, torch.inf).masked_fill(same, 0.0)
    return off.max().item(), (off > CLOSE).float().mean().item()
