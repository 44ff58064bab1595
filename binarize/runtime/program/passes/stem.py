"""A float convolution of few channels with its batch norm, activation and max-pool in one operator."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from binarize.native.instruction_set import resolve
from binarize.runtime import ops
from binarize.runtime.program.arguments import CONV, HARDTANH, POOL, arguments
from binarize.runtime.program.graph import COMPUTED, ProgramGraph, is_float, only_user, shape_of

aten = torch.ops.aten
_CHANNELS = 16  # most input channels: there a stem gains 2 to 5 %, and less with more
_WEIGHTS = 1 << 16  # most of them: they are ordered again at each call, and read from the second cache


def stem(program: ProgramGraph) -> None:
    """Convolutions that the kernels do faster than torch: with a pool behind them, or on AVX-512.

    Alone, torch's convolution is as fast as the kernel, or up to a third faster: the kernel only saves the
    reading and writing of memory by the layers that follow. Measured over usual stems of 224x224, in both
    memory formats: on AVX-512 as fast as torch's (3x3, 16 channels) to 3.7 times as fast (7x7 with RPReLU and
    pool); on AVX2 1.1 to 3.5 times with a pool, 0.75 to 1.3 times without one; slower in portable C++.
    """
    isa = resolve()
    for node in program.calls(aten.conv2d.default):
        reason = _why_not(program, node)
        if reason is None:
            continue
        last, norm, eps, activation, bounds, pool = _behind(program, node)
        reason = reason or _not_all(program, last) or _why_slower(isa, last is node, bool(pool))
        if reason:
            program.missed("stem", node, reason)
            continue
        x, weight, bias, stride, padding, _, _ = arguments(node, CONV)
        args = (x, weight, bias, norm, eps, activation, bounds, stride, padding, pool)
        program.taken("stem", node)
        _replace(program, last, args)


def _why_slower(isa: str, alone: bool, pool: bool) -> str:
    """Why torch's convolution is not slower on this processor; empty if it is."""
    if isa not in ("avx2", "avx512", "amx"):
        return "without AVX2, torch's convolution is faster"
    if alone:
        return "no norm, activation or max-pool that its kernel knows is behind it: torch's is as fast"
    return "" if pool or isa != "avx2" else "without a max-pool behind it, torch's is as fast on AVX2"


def _not_all(program: ProgramGraph, last: fx.Node) -> str:
    """Why a norm or activation behind it is not taken, if its vectors are the reason."""
    user = only_user(last)
    places: dict[Any, slice] = {
        aten.batch_norm.default: slice(1, 5),
        ops.piecewise: slice(1, 5),
        aten.prelu.default: slice(1, 2),
    }
    vectors = user.args[places[user.target]] if user is not None and user.target in places else ()
    return "" if program.known(*vectors) else f"{COMPUTED}: those of what is behind it"


def _replace(program: ProgramGraph, last: fx.Node, args: tuple[Any, ...]) -> None:
    with program.graph.inserting_after(last):
        fused = program.graph.call_function(ops.stem, args)
    with program.graph.inserting_after(fused):
        result = program.graph.call_function(operator.getitem, (fused, 0))
    val = last.meta["val"]
    fused.meta["val"], result.meta["val"] = (val, val.new_empty(0)), val
    program.replace(last, result)


def _why_not(program: ProgramGraph, node: fx.Node) -> str | None:
    """Why a convolution is not done by the kernel; None if it is not a stem at all."""
    _, weight, bias, _, padding, dilation, groups = arguments(node, CONV)
    tensor = program.tensor(weight)
    if tensor is None or not is_float(node) or tensor.shape[1] > _CHANNELS or groups != 1:
        return None
    if tuple(tensor.shape[2:]) == (1, 1) or min(shape_of(node)) < 1 or len(shape_of(node)) != 4:
        return None
    if any(d != 1 for d in dilation) or isinstance(padding, str):
        return "it is dilated, or its padding is a word"
    if tensor.numel() > _WEIGHTS or tensor.dtype != torch.float32:
        return "it has too many weights"
    return "" if program.known(bias) else COMPUTED


def _behind(
    program: ProgramGraph, node: fx.Node
) -> tuple[fx.Node, list[Any], float, list[Any], list[float], list[int]]:
    """The last operator that the kernel can do, and the arguments of all of them."""
    last, eps = node, 0.0
    norm: list[Any] = []
    activation: list[Any] = []
    bounds: list[float] = []
    pool: list[int] = []
    user = only_user(last)
    if user is not None and user.target is aten.batch_norm.default and user.args[0] is last:
        _, weight, bias, mean, variance, training, _, eps = arguments(user)[:8]
        if training or None in (mean, variance) or not program.known(mean, variance, weight, bias):
            return last, norm, 0.0, activation, bounds, pool
        last, norm, user = user, [mean, variance, weight, bias], only_user(user)
    if user is not None and user.args[0] is last:
        if user.target is aten.relu.default:
            last, activation, user = user, [None] * 4, only_user(user)
        elif user.target is ops.piecewise and user.args[5] == 1 and program.known(*user.args[1:5]):
            last, activation, user = user, list(user.args[1:5]), only_user(user)
        elif user.target is aten.relu6.default:
            last, bounds, user = user, [0.0, 6.0], only_user(user)
        elif user.target is aten.hardtanh.default:
            _, low, high = arguments(user, HARDTANH)
            last, bounds, user = user, [float(low), float(high)], only_user(user)
    if user is not None and user.target is aten.max_pool2d.default and user.args[0] is last:
        _, kernel, stride, padding, dilation, ceil = arguments(user, POOL)
        if not ceil and all(d == 1 for d in dilation):
            last, pool = user, [*_two(kernel), *_two(stride or kernel), *_two(padding)]
    return last, norm, float(eps), activation, bounds, pool


def _two(value: Any) -> list[int]:
    return [int(value[0]), int(value[-1])]
