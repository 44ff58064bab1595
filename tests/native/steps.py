"""Steps of programs on tensors, as the tests run them."""

from __future__ import annotations

import ctypes
from ctypes import byref
from typing import Any

import torch
from torch import Tensor

from binarize.native import structs
from binarize.native.library import features, load
from binarize.native.prepared import PreparedConv, PreparedPack

CHANNELS = (1, 3, 16, 17, 64, 100)
ISAS = tuple(isa for isa in features().isas if isa != "amx")
"""Instruction sets with steps of their own: those of AMX are AVX-512's."""


def run(*steps: tuple[str, ctypes.Structure], isa: str = "auto", threads: int = 1) -> tuple[int, int]:
    """The status of `bz_run`, and the index of the step that failed (-1: none)."""
    lib = load()
    assert lib is not None
    array = (structs.Step * max(len(steps), 1))()
    for step, (kind, arguments) in zip(array, steps, strict=False):
        step.kind, step.arguments = structs.STEPS[kind], ctypes.addressof(arguments)
    failed = ctypes.c_int64(-1)
    status = lib.bz_run(structs.ISAS[isa], threads, len(steps), ctypes.addressof(array), byref(failed))
    return status, failed.value


def must(kind: str, arguments: ctypes.Structure, isa: str, threads: int = 1) -> None:
    """Run one step, which has to succeed."""
    assert run((kind, arguments), isa=isa, threads=threads) == (0, -1)


def last(x: Tensor) -> Tensor:
    """Its copy, channels-last."""
    return x.contiguous(memory_format=torch.channels_last)


def blank(*shape: int, sliced: bool = False) -> Tensor:
    """A map of NaN, channels-last; sliced: of a wider and larger one, whose other values must stay NaN."""
    n, c, h, w = shape
    if not sliced:
        return last(torch.full(shape, float("nan")))
    wide = last(torch.full((n, c + 7, h + 1, w + 2), float("nan")))
    return wide[:, 3 : 3 + c, 1:, 1 : 1 + w]


def sliced(x: Tensor) -> Tensor:
    """Its copy in a wider and larger map."""
    return blank(*x.shape, sliced=True).copy_(x)


def whole(x: Tensor) -> Tensor:
    """All the memory that a slice of `blank` lies in, but the slice."""
    base = x._base
    assert base is not None
    rest = base.clone()
    c, w = x.shape[1], x.shape[3]
    rest[:, 3 : 3 + c, 1:, 1 : 1 + w] = float("nan")
    return rest


def map_of(x: Tensor, *, channel: int = 1) -> structs.Map:
    """Of (N, C, H, W) with its strides."""
    return structs.Map(x.data_ptr(), x.stride(0), x.stride(2), x.stride(3), channel)


def address(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def instruction(op: str, to: int, a: int, b: int = 0, *, p: float = 0.0, q: float = 0.0, v: Any = ()) -> Any:
    vectors = (ctypes.c_void_p * 4)(*[address(x) for x in v])
    return structs.Instruction(structs.OPS[op], to, a, b, p, q, vectors)


def pointwise(
    shape: tuple[int, ...],
    operands: list[structs.Map],
    instructions: list[Any],
    results: list[tuple[int, Tensor, Tensor | None]],
) -> structs.PointwiseStep:
    """shape: (N, C, H, W)."""
    n, c, h, w = shape
    step = structs.PointwiseStep(n, h, w, c, len(operands), len(instructions), len(results))
    step.operand = (structs.Map * len(operands))(*operands)
    step.instruction = (structs.Instruction * max(len(instructions), 1))(*instructions)
    made = [structs.Result(source, 0, map_of(out), address(sums)) for source, out, sums in results]
    step.result = (structs.Result * len(made))(*made)
    step.held = results  # type: ignore[attr-defined]
    return step


def layer_of(pack: PreparedPack, conv: PreparedConv, x: Tensor) -> structs.Layer:
    """A layer of single calls as programs describe it, for maps like x; valid while all three live."""
    return structs.Layer(
        conv=conv.geometry,
        kind=("conv", "depthwise", "scaled").index(conv.weights.kind),
        exact=conv.exact,
        words=conv.weights.words.data_ptr(),
        counts=conv.weights.counts.data_ptr(),
        dab=None if pack.dab is None else ctypes.pointer(pack.dab),
        mul=pack.mul,
        add=pack.add,
        x=map_of(x),
        epilogue=conv.template,
    )


def layer_step(
    layer: structs.Layer,
    x: Tensor,
    out: Tensor | None,
    *,
    bypass: Tensor | None = None,
    sums: Tensor | None = None,
) -> structs.LayerStep:
    """The step of a layer; where it writes a map, the layer gets that map's strides."""
    step = structs.LayerStep(layer=ctypes.pointer(layer), x=x.data_ptr(), bypass=address(bypass))
    step.out, step.sums = address(out), address(sums)
    layer.epilogue.out = structs.Map() if out is None else map_of(out)
    return step
