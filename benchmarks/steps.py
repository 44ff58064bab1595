"""Times of a program's steps against torch's functions on channels-last maps; one thread.

Times are the smallest of several repetitions, in milliseconds, and include the call from Python. GB/s counts
what a step has to read and write; GFLOP/s (of linear layers) two operations per product.

    OMP_NUM_THREADS=1 python benchmarks/steps.py [--isa avx2] [--only linear] [--seconds 0.3]
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from binarize.native import structs
from binarize.native.library import required

Case = tuple[
    str, str, ctypes.Structure, Callable[[], object], float
]  # name, kind, arguments, torch, bytes or FLOP


def fastest(call: Callable[[], object], seconds: float) -> float:
    """The smallest time of a call, of as many as fit into `seconds`, at least three."""
    call()
    best, end, runs = float("inf"), time.perf_counter() + seconds, 0
    while runs < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
        runs += 1
    return best


_held: list[Tensor] = []  # what structures point to


def address(x: Tensor) -> int:
    """Of a tensor that lives until the end."""
    _held.append(x)
    return x.data_ptr()


def last(*shape: int) -> Tensor:
    """Random numbers, channels-last."""
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def map_of(x: Tensor) -> structs.Map:
    """Of (N, C, H, W)."""
    return structs.Map(address(x), x.stride(0), x.stride(2), x.stride(3), 1)


def instruction(op: str, to: int, a: int, b: int = 0, v: Any = ()) -> structs.Instruction:
    """One instruction; v: its vectors."""
    vectors = (ctypes.c_void_p * 4)(*[address(x) for x in v])
    return structs.Instruction(structs.OPS[op], to, a, b, 0.0, 0.0, vectors)


def pointwise(
    x: Tensor, operands: list[structs.Map], instructions: list[Any], out: Tensor
) -> structs.PointwiseStep:
    """A chain whose last register is the result."""
    n, c, h, w = x.shape
    step = structs.PointwiseStep(n, h, w, c, len(operands), len(instructions), 1)
    step.operand = (structs.Map * len(operands))(*operands)
    step.instruction = (structs.Instruction * len(instructions))(*instructions)
    step.result = (structs.Result * 1)(structs.Result(instructions[-1].to, 0, map_of(out), None))
    return step


def pointwise_cases(c: int, size: int) -> Iterator[Case]:
    """Chains on maps of one size."""
    x, y, out = last(1, c, size, size), last(1, c, size, size), last(1, c, size, size)
    v, w, scale = torch.randn(c), torch.randn(c), torch.rand(1, c, 1, 1)
    m, other, one = map_of(x), map_of(y), x.numel() * 4
    vector = structs.Map(address(scale), 0, 0, 0, 1)
    label = f"{c}x{size}x{size}"
    calls: list[tuple[str, list[Any], list[Any], Callable[[], object], int]] = [
        ("add", [m, other], [instruction("add", 2, 0, 1)], lambda: x + y, 3),
        (
            "add, relu",
            [m, other],
            [instruction("add", 2, 0, 1), instruction("relu", 2, 2)],
            lambda: F.relu(x + y),
            3,
        ),
        ("relu", [m], [instruction("relu", 1, 0)], lambda: F.relu(x), 2),
        ("mul channels", [m, vector], [instruction("mul", 2, 0, 1)], lambda: x * scale, 2),
        (
            "batch norm, silu",
            [m],
            [instruction("affine", 1, 0, v=(v, w)), instruction("silu", 1, 1)],
            lambda: F.silu(F.batch_norm(x, v, scale.flatten(), w, v)),
            2,
        ),
    ]
    for op, function in (
        ("sigmoid", torch.sigmoid),
        ("silu", F.silu),
        ("tanh", torch.tanh),
        ("gelu", F.gelu),
        ("hardswish", F.hardswish),
    ):
        calls.append((op, [m], [instruction(op, 1, 0)], lambda function=function: function(x), 2))
    for name, operands, instructions, call, maps in calls:
        yield f"{name} {label}", "pointwise", pointwise(x, operands, instructions, out), call, maps * one


def row_cases() -> Iterator[Case]:
    """Steps over the channels of each position."""
    for c, size in ((96, 56), (768, 14)):
        x, out, v = last(1, c, size, size), last(1, c, size, size), torch.randn(c)
        step = structs.LayerNormStep(1, size, size, c, map_of(x), map_of(out), address(v), address(v), 1e-6)
        rows = x.permute(0, 2, 3, 1)
        call = lambda rows=rows, c=c, v=v: F.layer_norm(rows, (c,), v, v, 1e-6)  # noqa: E731
        yield f"layer norm {c}x{size}x{size}", "layer_norm", step, call, 8 * x.numel()
    x, y = torch.randn(12 * 197, 197), torch.empty(12 * 197, 197)
    step = structs.SoftmaxStep(12 * 197, 197, 0.125, address(x), 197, address(y), 197)
    yield "softmax 2364x197", "softmax", step, lambda: (x * 0.125).softmax(1), 8 * x.numel()


def attention_cases() -> Iterator[Case]:
    """Heads of a ViT, and windows of a Swin with a bias for each head."""
    for n, heads, length, depth, biased in (
        (1, 6, 197, 64, False),
        (64, 3, 49, 32, True),
        (4, 12, 49, 32, True),
    ):
        q, k, v = torch.randn(n, length, 3, heads, depth).permute(2, 0, 3, 1, 4).unbind(0)
        out = torch.empty(n, length, heads, depth).transpose(1, 2)
        bias = torch.randn(heads, length, length)
        step = structs.AttentionStep(1, n, heads, length, length, depth, depth, 0, depth**-0.5)
        for place, t in ((step.q, q), (step.k, k), (step.v, v), (step.out, out)):
            place.data, place.window, place.head, place.row = address(t), *t.stride()[:3]
        if biased:
            step.bias[0] = structs.Heads(address(bias), 0, 0, length * length, length)
        step.held = (q, k, v, out, bias)  # type: ignore[attr-defined]
        given = bias[None] if biased else None
        call = lambda q=q, k=k, v=v, b=given: F.scaled_dot_product_attention(q, k, v, b)  # noqa: E731
        moved = 16 * q.numel()
        yield f"attention {n}x{heads}x{length}x{depth}", "attention", step, call, moved


def position_cases() -> Iterator[Case]:
    """Steps over positions."""
    x, out = last(1, 64, 112, 112), last(1, 64, 56, 56)
    g = structs.Pool(3, 3, 2, 2, 1, 1, 56, 56)
    step = structs.PoolStep(1, 64, 112, 112, g, 0, 0, 0, 0, map_of(x), map_of(out))
    yield (
        "max-pool 3x3/2 64x112",
        "pool",
        step,
        lambda: F.max_pool2d(x, 3, 2, 1),
        4 * (x.numel() + out.numel()),
    )
    y, half = last(1, 128, 56, 56), last(1, 128, 28, 28)
    g = structs.Pool(2, 2, 2, 2, 0, 0, 28, 28)
    step = structs.PoolStep(1, 128, 56, 56, g, 1, 0, 0, 0, map_of(y), map_of(half))
    yield "avg-pool 2x2/2 128x56", "pool", step, lambda: F.avg_pool2d(y, 2), 4 * (y.numel() + half.numel())
    for c, size in ((96, 56), (960, 7)):
        z, mean = last(1, c, size, size), torch.empty(1, c)
        step = structs.MeanStep(1, size, size, c, map_of(z), None, address(mean))
        yield f"mean {c}x{size}x{size}", "mean", step, lambda z=z: z.mean((2, 3)), 4 * z.numel()
    for c, size, to, mode in (
        (128, 30, 60, "bilinear"),
        (19, 60, 240, "bilinear"),
        (1, 120, 480, "bilinear"),
        (128, 30, 60, "nearest"),
    ):
        z, large = last(1, c, size, size), last(1, c, to, to)
        step = structs.ResizeStep(
            1, c, size, size, to, to, structs.RESIZE_MODES[mode], 0, 0, map_of(z), map_of(large)
        )
        call = lambda z=z, to=to, mode=mode: F.interpolate(z, (to, to), mode=mode)  # noqa: E731
        yield f"{mode} {c}x{size} to {to}", "resize", step, call, 4 * (z.numel() + large.numel())


def linear_cases() -> Iterator[Case]:
    """One row to many."""
    for rows, inputs, outputs in (
        (1, 512, 1000),
        (1, 2048, 1000),
        (8, 768, 768),
        (197, 768, 3072),
        (197, 3072, 768),
        (3136, 96, 384),
    ):
        x, w, y = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.empty(rows, outputs)
        add = torch.zeros(outputs)
        step = structs.LinearStep(rows, inputs, outputs, structs.OPS["copy"], address(x), inputs)
        step.weights, step.weights_row, step.add = address(w), inputs, address(add)
        step.y, step.y_row = address(y), outputs
        call = lambda x=x, w=w, b=add: F.linear(x, w, b)  # noqa: E731
        yield f"linear {rows}x{inputs} to {outputs}", "linear", step, call, 2.0 * rows * inputs * outputs


def copy_cases() -> Iterator[Case]:
    """Changes of layout."""

    def step_of(x: Tensor, y: Tensor) -> structs.CopyStep:
        step = structs.CopyStep(dims=x.dim(), x=address(x), y=address(y))
        for i in range(x.dim()):
            step.size[i], step.from_[i], step.to[i] = x.shape[i], x.stride(i), y.stride(i)
        return step

    for name, x, y in (
        ("channels-first to last 64x112", torch.randn(1, 64, 112, 112), last(1, 64, 112, 112)),
        ("channels-first to last 3x224", torch.randn(1, 3, 224, 224), last(1, 3, 224, 224)),
        ("channels-last to first 64x112", last(1, 64, 112, 112), torch.randn(1, 64, 112, 112)),
        ("into a slice 64x112", last(1, 64, 112, 112), last(1, 128, 112, 112)[:, :64]),
    ):
        yield f"copy {name}", "copy", step_of(x, y), lambda x=x, y=y: y.copy_(x), 8 * x.numel()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--isa", default="auto", choices=structs.ISAS)
    parser.add_argument("--only", default="")
    parser.add_argument("--seconds", type=float, default=0.3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lib, step = required(), (structs.Step * 1)()
    cases = [c for sizes in ((64, 112), (256, 14), (3, 224)) for c in pointwise_cases(*sizes)]
    cases += [*row_cases(), *attention_cases(), *position_cases(), *linear_cases(), *copy_cases()]
    print(f"{'step':36} {'ms':>9} {'torch ms':>9} {'times':>6} {'':>9}")
    for name, kind, arguments, call, work in cases:
        if options.only not in name:
            continue
        step[0].kind, step[0].arguments = structs.STEPS[kind], ctypes.addressof(arguments)
        run = lambda: lib.bz_run(structs.ISAS[options.isa], 1, 1, ctypes.addressof(step), None)  # noqa: E731
        if run() != 0:
            raise SystemExit(f"{name}: refused")
        ours = fastest(run, options.seconds)
        with torch.inference_mode():
            theirs = fastest(call, options.seconds)
        speed = f"{work / ours / 1e9:6.1f} {'GFLOP/s' if kind == 'linear' else 'GB/s'}"
        print(f"{name:36} {ours * 1e3:9.4f} {theirs * 1e3:9.4f} {theirs / ours:6.2f} {speed}")


if __name__ == "__main__":
    main()
