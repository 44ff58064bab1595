"""Times of several variants in one run, in turn: if the machine slows down, it slows down all of them."""

from __future__ import annotations

import math
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from binarize.graph.trace.roles import known_class
from binarize.native.instruction_set import peak as run_peak
from binarize.native.library import available, features
from binarize.runtime import PackedLayer

PACKED = "packed "
"""Prefix of the kinds of packed layers in `Bench.kinds`."""
BETWEEN = "between modules"
"""The kind of time that is spent in no module."""
_PEAK_ROUNDS = 1 << 20
_TURN = 0.05  # seconds of the first variant
_MOST = 20  # passes of a turn


@dataclass(frozen=True)
class Variant:
    """Something to be timed.

    Attributes:
        name: for the table.
        model: whose modules are broken down.
        run: one forward pass.
        difference: of its outputs from the float network's (`binarize.bench.agreement`), if compared.
    """

    name: str
    model: nn.Module
    run: Callable[[], Any]
    difference: float | None = None


@dataclass(frozen=True)
class Bench:
    """Result of `bench`.

    Attributes:
        times: seconds of every pass by variant, in their order.
        passes: of a turn.
        kinds: milliseconds of the first variant's parts by kind, per pass, mean of a turn.
        macs: multiply-accumulates of one bit in that pass, by kind; only kinds that have some.
        peak: the most of those per second: measured with a loop on registers only on one thread, times the
            threads; None without kernels.
        machine: where it ran.
        threads: of torch and of the kernels.
        shape: of the input.
    """

    times: dict[str, list[float]]
    passes: int
    kinds: dict[str, float]
    macs: dict[str, int]
    peak: float | None
    machine: dict[str, str]
    threads: int
    shape: tuple[int, ...]

    def median(self, name: str) -> float:
        """Seconds."""
        return statistics.median(self.times[name])

    def rates(self) -> dict[str, float]:
        """Multiply-accumulates of one bit per second, by kind, in all of the kind's time."""
        kinds = self.kinds
        return {kind: macs / (1e-3 * kinds[kind]) for kind, macs in self.macs.items() if kinds[kind]}

    def as_dict(self) -> dict[str, Any]:
        """Plain values, times in milliseconds."""
        first = next(iter(self.times))
        return {
            "shape": list(self.shape),
            "threads": self.threads,
            "passes_of_a_turn": self.passes,
            "machine": self.machine,
            "variants": [
                {
                    "name": name,
                    "median_ms": 1e3 * self.median(name),
                    "least_ms": 1e3 * min(times),
                    "passes": len(times),
                    "times_as_long": self.median(name) / self.median(first),
                }
                for name, times in self.times.items()
            ],
            "kinds_ms": self.kinds,
            "kinds_gmacs_per_s": {kind: rate / 1e9 for kind, rate in self.rates().items()},
            "binary_gmacs": sum(self.macs.values()) / 1e9,
            "peak_gmacs_per_s": None if self.peak is None else self.peak / 1e9,
        }


def bench(
    variants: Sequence[Variant],
    shape: Sequence[int],
    *,
    rounds: int = 7,
    passes: int | None = None,
    warmup: int = 2,
    memory_kept: bool = False,
) -> Bench:
    """Time variants in turn.

    A turn is several passes: in a single pass after another network, a small network would find that
    network's data in the caches, unlike in use, where it runs again and again.

    Args:
        variants: the first is what the others are compared with.
        shape: of the input, for the record.
        rounds: turns of each variant.
        passes: of each variant per turn; as many as the first one does in 50 ms, at most 20, if None.
        warmup: passes before, not counted: they allocate memory and compile programs.
        memory_kept: whether `keep_memory` was called, for the record.
    """
    with torch.inference_mode():
        for variant in variants:
            for _ in range(warmup):
                variant.run()
        if passes is None:
            each = statistics.median(_seconds(variants[0]) for _ in range(3))
            passes = min(_MOST, math.ceil(_TURN / max(each, 1e-9)))
        times: dict[str, list[float]] = {variant.name: [] for variant in variants}
        for _ in range(rounds):
            for variant in variants:
                times[variant.name] += [_seconds(variant) for _ in range(passes)]
        kinds, macs = _kinds(variants[0], passes)
    return Bench(
        times=times,
        passes=passes,
        kinds=kinds,
        macs=macs,
        peak=_peak(torch.get_num_threads()),
        machine={**machine(), "memory_kept": "yes" if memory_kept else "no"},
        threads=torch.get_num_threads(),
        shape=tuple(shape),
    )


def _peak(threads: int) -> float | None:
    """The most multiply-accumulates of one bit per second that the processor can do; None without kernels."""
    if not available():
        return None
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        macs = run_peak(rounds=_PEAK_ROUNDS)
        best = min(best, time.perf_counter() - began)
    return threads * macs / best


def _seconds(variant: Variant) -> float:
    """Seconds of one pass."""
    began = time.perf_counter()
    variant.run()
    return time.perf_counter() - began


def _kinds(variant: Variant, passes: int) -> tuple[dict[str, float], dict[str, int]]:
    """Per pass: milliseconds by kind of leaf module, and the rest; multiply-accumulates of one bit."""
    spent: dict[str, float] = defaultdict(float)
    macs: dict[str, int] = defaultdict(int)
    with _timed(variant.model, spent, macs):
        total = sum(1e3 * _seconds(variant) for _ in range(passes))
    spent[BETWEEN] = max(0.0, total - sum(spent.values()))
    each = {kind: ms / passes for kind, ms in spent.items()}
    return dict(sorted(each.items(), key=lambda item: -item[1])), {k: n // passes for k, n in macs.items()}


@contextmanager
def _timed(model: nn.Module, spent: dict[str, float], macs: dict[str, int]) -> Iterator[None]:
    stack: list[float] = []
    handles = []
    packed = {id(m): m for m in model.modules() if isinstance(m, PackedLayer)}
    inner = {id(part) for m in packed.values() for part in m.modules()} - packed.keys()
    for module in model.modules():
        if id(module) in inner or (id(module) not in packed and any(True for _ in module.children())):
            continue
        kind = _kind(module)
        handles.append(module.register_forward_pre_hook(lambda *_: stack.append(time.perf_counter())))

        def end(module: nn.Module, args: Any, kwargs: Any, out: Any, kind: str = kind) -> None:
            spent[kind] += 1e3 * (time.perf_counter() - stack.pop())
            if isinstance(module, PackedLayer):
                given = args[0] if args else kwargs["input"]
                macs[kind] += _macs(module, given.shape, out.shape)

        handles.append(module.register_forward_hook(end, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _macs(layer: PackedLayer, given: Sequence[int], made: Sequence[int]) -> int:
    """Products of one call, from the shapes of its input and output; padded positions count too."""
    spec = layer.spec
    taps = math.prod(spec.kernel)
    if spec.kind == "transposed":
        return math.prod(given) * spec.out_channels // spec.groups * taps
    return math.prod(made) * spec.in_channels // spec.groups * taps


def _kind(module: nn.Module) -> str:
    if not isinstance(module, PackedLayer):
        return known_class(module).__name__
    spec = module.spec
    if not spec.kernel:
        return f"{PACKED}linear"
    size = "x".join(map(str, spec.kernel))
    alone = spec.groups == spec.in_channels == spec.out_channels
    grouped = "" if spec.groups == 1 else "depthwise " if alone else "grouped "
    return f"{PACKED}{grouped}{size}"


def machine() -> dict[str, str]:
    """The processor, its instruction sets, and versions."""
    return {
        "cpu": _cpu(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "kernels": features().isa or "torch",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
