"""Times of several variants in one run, in turn: if the machine slows down, it slows down all of them."""

from __future__ import annotations

import dataclasses
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
from binarize.runtime import PackedLayer, deployed_layers
from binarize.runtime.program.dispatch import Programs
from binarize.runtime.program.timing import PACKED, StepTime, binary_macs, kind_of_layer

BETWEEN = "between modules"
"""The kind of time that is spent in no module, if modules are timed."""
AROUND = "around the steps"
"""The kind of time that is spent in no step of a program, if those are timed."""
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
        kinds: milliseconds of the first variant's parts by kind, per pass: of its program's steps, each run
            alone, or of its modules if no program ran; mean of a turn.
        macs: multiply-accumulates of one bit in that pass, by kind; only kinds that have some.
        peak: the most of those per second: measured with a loop on registers only on one thread, times the
            threads; None without kernels.
        machine: where it ran.
        threads: of torch and of the kernels.
        shape: of the input.
        steps: of the first variant's program, the longest ones first; empty if none ran.
        no_program: why none ran, if that is known.
    """

    times: dict[str, list[float]]
    passes: int
    kinds: dict[str, float]
    macs: dict[str, int]
    peak: float | None
    machine: dict[str, str]
    threads: int
    shape: tuple[int, ...]
    steps: tuple[StepTime, ...] = ()
    no_program: str = ""

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
            "parts": "steps" if self.steps else "modules",
            "no_program": self.no_program,
            "kinds_ms": self.kinds,
            "steps": [
                {"kind": step.kind, "module": step.place, "ms": 1e3 * step.seconds} for step in self.steps
            ],
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
        steps, total = _steps(variants[0], passes)
        kinds, macs = _kinds_of_steps(steps, total) if steps else _kinds(variants[0], passes)
    return Bench(
        times=times,
        passes=passes,
        kinds=kinds,
        macs=macs,
        peak=_peak(torch.get_num_threads()),
        machine={**machine(), "memory_kept": "yes" if memory_kept else "no"},
        threads=torch.get_num_threads(),
        shape=tuple(shape),
        steps=steps,
        no_program=_no_program(variants[0].model) if not steps else "",
    )


def _steps(variant: Variant, passes: int) -> tuple[tuple[StepTime, ...], float]:
    """The steps of its program, the longest first, and seconds of a pass: means; no steps without one."""
    programs = getattr(variant.model, "binarize_programs", None)
    if not isinstance(programs, Programs) or not programs.programs():
        return (), 0.0
    totals: list[float] = []
    runs: list[list[StepTime]] = []
    for _ in range(passes):
        totals.append(_seconds(variant))  # not of the next pass, in which Python calls each step alone
        with programs.timed() as times:
            variant.run()
        runs.append(times)
    if len({len(run) for run in runs}) != 1:
        return (), 0.0  # scales that are not finite: some calls were left to the modules
    found = [
        dataclasses.replace(same[0], seconds=statistics.fmean(step.seconds for step in same))
        for same in zip(*runs, strict=True)
    ]
    found = sorted(_of_layers(found, variant.model), key=lambda step: -step.seconds)
    return tuple(found), statistics.fmean(totals)  # means, so that parts and the rest add up


def _of_layers(steps: Sequence[StepTime], model: nn.Module) -> list[StepTime]:
    """The steps, where those of a packed layer that torch computes, as several operators, have its kind."""
    layers = deployed_layers(model)
    native = {step.place for step in steps if step.kind.startswith(PACKED)}
    return [
        dataclasses.replace(step, kind=f"{kind_of_layer(layers[step.place].spec)}, torch")
        if step.place in layers and step.place not in native
        else step
        for step in steps
    ]


def _kinds_of_steps(steps: Sequence[StepTime], total: float) -> tuple[dict[str, float], dict[str, int]]:
    """Milliseconds by kind of step, and the rest of a pass; multiply-accumulates of one bit."""
    spent: dict[str, float] = defaultdict(float)
    macs: dict[str, int] = defaultdict(int)
    for step in steps:
        spent[step.kind] += 1e3 * step.seconds
        if step.macs:
            macs[step.kind] += step.macs
    spent[AROUND] = max(0.0, 1e3 * total - sum(spent.values()))
    return dict(sorted(spent.items(), key=lambda item: -item[1])), dict(macs)


def _no_program(model: nn.Module) -> str:
    programs = getattr(model, "binarize_programs", None)
    return "; ".join(dict.fromkeys(programs.reasons())) if isinstance(programs, Programs) else ""


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
                channels = out.shape[module.spec.dim]
                macs[kind] += binary_macs(module.spec, given.shape, out.numel() // max(channels, 1))

        handles.append(module.register_forward_hook(end, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _kind(module: nn.Module) -> str:
    if not isinstance(module, PackedLayer):
        return known_class(module).__name__
    return kind_of_layer(module.spec)


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
