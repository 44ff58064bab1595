"""Times of several variants in one run, alternating, so that a machine that slows down slows down all."""

from __future__ import annotations

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

from binarize.native.library import features
from binarize.runtime import PackedLayer


@dataclass(frozen=True)
class Variant:
    """Something to be timed.

    Attributes:
        name: for the table.
        model: whose modules are broken down.
        run: one forward pass.
    """

    name: str
    model: nn.Module
    run: Callable[[], Any]


@dataclass(frozen=True)
class Bench:
    """Result of `bench`.

    Attributes:
        times: seconds of every round by variant, in the order of the rounds.
        kinds: milliseconds of the first variant's parts by kind, one pass.
        machine: where it ran.
        threads: of torch and of the kernels.
        shape: of the input.
    """

    times: dict[str, list[float]]
    kinds: dict[str, float]
    machine: dict[str, str]
    threads: int
    shape: tuple[int, ...]

    def median(self, name: str) -> float:
        """Seconds."""
        return statistics.median(self.times[name])

    def as_dict(self) -> dict[str, Any]:
        """Plain values, times in milliseconds."""
        first = next(iter(self.times))
        return {
            "shape": list(self.shape),
            "threads": self.threads,
            "machine": self.machine,
            "variants": [
                {
                    "name": name,
                    "median_ms": 1e3 * self.median(name),
                    "least_ms": 1e3 * min(times),
                    "rounds": len(times),
                    "times_as_long": self.median(name) / self.median(first),
                }
                for name, times in self.times.items()
            ],
            "kinds_ms": self.kinds,
        }


def bench(
    variants: Sequence[Variant],
    shape: Sequence[int],
    *,
    rounds: int = 7,
    warmup: int = 2,
    memory_kept: bool = False,
) -> Bench:
    """Time variants in turn.

    Args:
        variants: the first is what the others are compared with.
        shape: of the input, for the record.
        rounds: of all variants.
        warmup: passes before, not counted: memory is taken and programs are compiled.
        memory_kept: whether `keep_memory` was called, for the record.
    """
    with torch.inference_mode():
        for variant in variants:
            for _ in range(warmup):
                variant.run()
        times: dict[str, list[float]] = {variant.name: [] for variant in variants}
        for _ in range(rounds):
            for variant in variants:
                began = time.perf_counter()
                variant.run()
                times[variant.name].append(time.perf_counter() - began)
        kinds = _kinds(variants[0])
    machine = {**_machine(), "memory_kept": "yes" if memory_kept else "no"}
    return Bench(times, kinds, machine, torch.get_num_threads(), tuple(shape))


def _kinds(variant: Variant) -> dict[str, float]:
    """Milliseconds of one pass by kind of leaf module, and what is left."""
    spent: dict[str, float] = defaultdict(float)
    began = 0.0
    with _timed(variant.model, spent):
        began = time.perf_counter()
        variant.run()
        total = 1e3 * (time.perf_counter() - began)
    spent["between modules"] = max(0.0, total - sum(spent.values()))
    return dict(sorted(spent.items(), key=lambda item: -item[1]))


@contextmanager
def _timed(model: nn.Module, spent: dict[str, float]) -> Iterator[None]:
    stack: list[float] = []
    handles = []
    packed = {id(m): m for m in model.modules() if isinstance(m, PackedLayer)}
    # what a layer leaves to the convolution behind it is counted there
    joined = {id(m.reader): f"{_kind(m)} with 1x1 Conv2d" for m in packed.values() if m.lazy == "behind"}
    inner = {id(part) for m in packed.values() for part in m.modules()} - packed.keys()
    for module in model.modules():
        if id(module) in inner or (id(module) not in packed and any(True for _ in module.children())):
            continue
        kind = joined.get(id(module)) or _kind(module)
        handles.append(module.register_forward_pre_hook(lambda *_: stack.append(time.perf_counter())))

        def end(*_: Any, kind: str = kind) -> None:
            spent[kind] += 1e3 * (time.perf_counter() - stack.pop())

        handles.append(module.register_forward_hook(end))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _kind(module: nn.Module) -> str:
    if not isinstance(module, PackedLayer):
        return "Conv2d" if isinstance(module, nn.Conv2d) else type(module).__name__
    spec = module.spec
    if not spec.kernel:
        return "packed linear"
    size = "x".join(map(str, spec.kernel))
    return f"packed {'depthwise ' if spec.groups > 1 else ''}{size}"


def _machine() -> dict[str, str]:
    return {
        "cpu": _cpu(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "kernels": features().isa,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
