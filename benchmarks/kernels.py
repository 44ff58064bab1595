"""Multiply-accumulates per second of the native kernels, against the peak and torch's float convolution.

The peak is that of a loop on registers alone with the innermost operations of the instruction set's
convolution (AVX-512: xor, popcount, add; AVX2: table look-up, add). Kernels are timed with an epilogue of
scale and shift that stores floats; inputs are packed beforehand. The float convolution is torch's on the same
shape, channels-last, with its own choice of instructions; `--avx2` restricts both to AVX2 (in a new process).
One thread; times are the smallest of several repetitions, and include the call from Python.

    OMP_NUM_THREADS=1 python benchmarks/kernels.py [--avx2] [--isa avx512] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from binarize import native

# kind, Cin, Cout, kernel, size
LAYERS = [
    ("conv", 64, 64, 3, 56),
    ("conv", 96, 96, 3, 120),
    ("conv", 128, 128, 3, 56),
    ("conv", 192, 192, 3, 60),
    ("conv", 256, 256, 3, 28),
    ("conv", 512, 512, 3, 14),
    ("conv", 96, 384, 1, 120),
    ("conv", 384, 96, 1, 120),
    ("conv", 192, 768, 1, 60),
    ("conv", 768, 192, 1, 60),
    ("conv", 384, 1536, 1, 30),
    ("conv", 1536, 384, 1, 30),
    ("depthwise", 96, 96, 7, 120),
    ("depthwise", 192, 192, 7, 60),
    ("depthwise", 384, 384, 7, 30),
    ("scaled", 96, 96, 3, 120),
    ("scaled", 256, 256, 3, 28),
    ("scaled", 96, 384, 1, 120),
    ("scaled", 384, 96, 1, 120),
]


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


def peak(isa: Any, seconds: float) -> float:
    """Multiply-accumulates per second of the register-only loop."""
    rounds = 1 << 18
    macs = native.peak(isa, rounds)
    return macs / fastest(lambda: native.peak(isa, rounds), seconds)


def layer(
    kind: str, cin: int, cout: int, kernel: int, size: int, isa: Any
) -> tuple[Callable[[], Tensor], Callable[[], Tensor], int]:
    """The packed layer, the float one and their multiply-accumulates."""
    groups = cin if kind == "depthwise" else 1
    x = torch.randn(1, cin, size, size).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(cout, cin // groups, kernel, kernel)
    pad = kernel // 2
    plane = native.pack(x, border=pad, isa=isa)
    last = native.Epilogue(mul=torch.rand(cout), add=torch.rand(cout))
    makers = {"conv": native.pack_weights, "depthwise": native.pack_depthwise, "scaled": native.pack_scaled}
    weights = makers[kind](weight, padding=pad, isa=isa)
    out = torch.empty(1, cout, size, size, memory_format=torch.channels_last)
    if kind == "scaled":
        alpha = torch.rand(1, cin) + 0.5

        def packed() -> Tensor:
            return native.conv_scaled(plane, weights, alpha, last, out=out)
    else:

        def packed() -> Tensor:
            return native.conv(plane, weights, last, out=out)

    float_weight = weight.contiguous(memory_format=torch.channels_last)
    macs = cout * (cin // groups) * kernel * kernel * size * size
    return packed, lambda: F.conv2d(x, float_weight, padding=pad, groups=groups), macs


def measure(isa: Any, seconds: float) -> dict[str, Any]:
    """Everything, in multiply-accumulates per second."""
    rows = []
    limit = peak(isa, seconds)
    for kind, cin, cout, kernel, size in LAYERS:
        packed, floats, macs = layer(kind, cin, cout, kernel, size, isa)
        with torch.inference_mode():
            rows.append(
                {
                    "layer": f"{kind} {cin}->{cout} {kernel}x{kernel} @{size}",
                    "packed": macs / fastest(packed, seconds),
                    "float": macs / fastest(floats, seconds),
                }
            )
    found = native.features()
    return {"isa": isa, "peak": limit, "rows": rows, "cpu": found.cpu, "build": found.build}


def table(result: dict[str, Any]) -> str:
    """For reading."""
    lines = [
        f"{result['isa']}: peak {result['peak'] / 1e9:.0f} G/s",
        f"{'layer':34} {'packed G/s':>10} {'of peak':>8} {'float G/s':>10} {'ratio':>6}",
    ]
    lines += [
        f"{r['layer']:34} {r['packed'] / 1e9:10.1f} {r['packed'] / result['peak']:8.0%} "
        f"{r['float'] / 1e9:10.1f} {r['packed'] / r['float']:6.1f}"
        for r in result["rows"]
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--isa", default="auto", choices=["auto", "portable", "avx2", "avx512"])
    parser.add_argument("--avx2", action="store_true", help="AVX2 for both, the float convolution included")
    parser.add_argument("--seconds", type=float, default=0.3, help="per measurement")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.avx2 and os.environ.get("ONEDNN_MAX_CPU_ISA") != "AVX2":
        environment = {**os.environ, "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
        raise SystemExit(subprocess.call([sys.executable, *sys.argv], env=environment))
    torch.set_num_threads(1)
    torch.manual_seed(0)
    isa = "avx2" if options.avx2 else options.isa
    result = measure(native.features().isa if isa == "auto" else isa, options.seconds)
    print(json.dumps(result) if options.json else table(result))


if __name__ == "__main__":
    main()
