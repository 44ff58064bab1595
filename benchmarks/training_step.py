"""Time of a training step of binary networks against that of the float network, eager and compiled.

Two networks, channels-last: the UPerNet on convnext_atto of the CamVid recipes (8 images of 96x128) and
ResNet-20 (128 images of 32x32). A step is forward, loss, backward and AdamW (UPerNet) or SGD (ResNet), with
memory kept as `binarize train` keeps it. Networks take turns; figures are medians, of wall time or (on a
machine that is not idle) of processor time. Compiling takes minutes.

    python benchmarks/training_step.py [--threads 1] [--steps 9] [--network upernet] [--method bidense]
                                       [--mode eager] [--clock cpu] [--device cuda] [--json]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import binarize
from binarize.model_names import create
from binarize.runtime import keep_memory
from binarize.training.compiled import CompiledForward

NETWORKS = ("upernet", "resnet20")
METHODS = ("float", "bnn", "reactnet", "adabin", "bidense")
MODES = ("eager", "compiled")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
LAST = torch.channels_last


def network(name: str, method: str, device: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """The network in training mode, images and labels."""
    torch.manual_seed(0)
    if name == "upernet":
        net: nn.Module = binarize.networks.upernet("convnext_atto", num_classes=12, width=32)
        images, labels = torch.randn(8, 3, 96, 128), torch.randint(0, 12, (8, 96, 128))
    else:
        net = create("resnet20-cifar")
        images, labels = torch.randn(128, 3, 32, 32), torch.randint(0, 10, (128,))
    if method != "float":
        net = binarize.apply(net, method, example_inputs=images[:2])
    net = net.to(device=device, memory_format=LAST).train()
    return net, images.to(device=device, memory_format=LAST), labels.to(device)


def stepper(name: str, method: str, mode: str, device: str) -> Callable[[], None]:
    """One step of this network, to be called again and again."""
    net, images, labels = network(name, method, device)
    kind: Any = torch.optim.AdamW if name == "upernet" else torch.optim.SGD
    how = {"lr": 1e-3, "fused": True} | ({} if name == "upernet" else {"momentum": 0.9, "nesterov": True})
    optimizer = kind(net.parameters(), **how)
    forward: Any = CompiledForward(net) if mode == "compiled" else net

    def step() -> None:
        optimizer.zero_grad()
        loss = F.cross_entropy(forward(images), labels)
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def seconds(
    steps: dict[Any, Callable[[], None]], count: int, device: str, clock: Callable[[], float]
) -> dict[Any, float]:
    """Medians; one round more than `count`, whose first allocates."""
    times: dict[Any, list[float]] = {key: [] for key in steps}
    for index in range(count + 1):
        for key, step in steps.items():
            if device == "cuda":
                torch.cuda.synchronize()
            start = clock()
            step()
            if device == "cuda":
                torch.cuda.synchronize()
            if index:
                times[key].append(clock() - start)
    return {key: statistics.median(values) for key, values in times.items()}


def processor(device: str) -> str:
    """The name of what computes."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--network", choices=NETWORKS, action="append")
    parser.add_argument("--method", choices=METHODS, action="append", help="beside float")
    parser.add_argument("--mode", choices=MODES, action="append")
    parser.add_argument("--clock", choices=[*CLOCKS], default="wall")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_memory()
    methods = ["float", *(m for m in options.method or METHODS if m != "float")]
    modes, device = options.mode or MODES, options.device
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in options.network or NETWORKS:
        steps = {(method, mode): stepper(name, method, mode, device) for mode in modes for method in methods}
        times = seconds(steps, options.steps, device, CLOCKS[options.clock])
        found[name] = {method: {mode: times[method, mode] for mode in modes} for method in methods}
    isa = binarize.native.features().isa
    setting = f"{processor(device)}, {options.threads} threads, torch {torch.__version__}, kernels {isa}"
    setting += f", {options.clock} time, medians of {options.steps} steps"
    if options.json:
        sys.stdout.write(json.dumps({"setting": setting, "steps": found}, indent=2) + "\n")
        return
    sys.stdout.write(f"{setting}; ms a step, and times the float network's in the same mode\n\n")
    sys.stdout.write(f"| network | method |{'|'.join(f' {mode} | ratio ' for mode in modes)}|\n")
    sys.stdout.write(f"|---|---|{'---:|---:|' * len(modes)}\n")
    for name, rows in found.items():
        for method, row in rows.items():
            cells = (f" {row[m] * 1e3:.0f} | {row[m] / rows['float'][m]:.2f} " for m in modes)
            sys.stdout.write(f"| {name} | {method} |{'|'.join(cells)}|\n")


if __name__ == "__main__":
    main()
