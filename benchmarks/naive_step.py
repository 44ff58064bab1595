"""Time and peak memory of one training step: fused quantizers against elementwise surrogates.

Both networks are the BiDense UPerNet on ConvNeXt-Tiny, built by `binarize.apply` with the same weights. The
naive one writes each straight-through estimator as `f(x).detach() + h(x) - h(x).detach()` with h built from
tensor operations (the quadratic's pieces blended by 0/1 masks), as published code of these methods commonly
does; autograd keeps what it likes. A step is forward, backward and AdamW.

Time: both variants in one process, steps alternating, median. Memory: one process per variant, the highest
point during steps, whole and above what stood there before the steps (model, gradients and optimizer state,
which both variants share): of resident memory by the kernel's high-water mark (Linux), of a GPU's by torch's
allocator.

    python benchmarks/naive_step.py [--size 128 | 360x480] [--batch 2] [--steps 7] [--device cuda] [--bf16]
                                       [--compile] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import binarize
from binarize.layers import DAB, BinaryLayer

VARIANTS = ("fused", "naive")


def straight_through(value: Tensor, surrogate: Tensor) -> Tensor:
    """Forward `value`, gradient of `surrogate`."""
    return value.detach() + surrogate - surrogate.detach()


def naive_sign(x: Tensor) -> Tensor:
    """sign(x) with the gradient of the piecewise quadratic that approximates it, pieces blended by masks."""
    below, left, right = ((x < bound).float() for bound in (-1, 0, 1))
    surrogate = -below + (x * x + 2 * x) * (1 - below)
    surrogate = surrogate * left + (2 * x - x * x) * (1 - left)
    surrogate = surrogate * right + (1 - right)
    return straight_through(torch.sign(x), surrogate)


def naive_dab(dab: DAB, x: Tensor) -> Tensor:
    """The DAB in tensor operations (channel granularity)."""
    dims = tuple(range(2, x.dim())) if dab.rule.dim == 1 else tuple(range(1, x.dim() - 1))
    shifted = x - (dab.k * x.mean(dims, keepdim=True).detach() + dab.b)
    deviation = shifted.abs().mean(dims, keepdim=True).detach()
    return torch.exp(dab.a * (deviation - 1)) * naive_sign(shifted)


def naive_weight(weight: Tensor) -> Tensor:
    """mean(abs(w)) * sign(w) per filter with the gradient of clamp(w, -1, 1)."""
    scale = weight.abs().mean(tuple(range(1, weight.dim())), keepdim=True).detach()
    return straight_through(scale * torch.sign(weight), weight.clamp(-1, 1))


def naive_dense(layer: Any, x: Tensor, geometry: Any, *, quantized: bool = False) -> Tensor:
    """What the layer computes, through autograd alone."""
    y = naive_dab(layer.quantizer, x)
    weight = naive_weight(layer.weight)
    if geometry is None:
        return F.linear(y, weight, layer.bias)
    return F.conv2d(
        y, weight, layer.bias, geometry.stride, geometry.padding, geometry.dilation, geometry.groups
    )


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is measured: (H, W), images per step, where, in which precision, compiled or not."""

    size: tuple[int, int]
    batch: int
    device: str
    bf16: bool
    compiled: bool

    @property
    def words(self) -> str:
        """The setting and its machine."""
        height, width = self.size
        name = platform.processor() or platform.machine()
        where = torch.cuda.get_device_name() if self.device == "cuda" else name
        threads = "" if self.device == "cuda" else f", {torch.get_num_threads()} threads"
        how = f"{', bfloat16' if self.bf16 else ''}{', compiled' if self.compiled else ''}"
        return f"{self.batch} x {height}x{width}, {where}{threads}, torch {torch.__version__}{how}"


def network(variant: str, setting: Setting, classes: int = 151) -> nn.Module:
    """The BiDense UPerNet in training mode, quantizing in one way or the other."""
    torch.manual_seed(0)
    net = binarize.networks.upernet("convnext_tiny", num_classes=classes)
    model = binarize.apply(net, "bidense", example_inputs=torch.zeros(1, 3, *setting.size)).train()
    if variant == "naive":
        for layer in model.modules():
            if isinstance(layer, BinaryLayer):
                layer.__dict__["_dense"] = functools.partial(naive_dense, layer)
    return model.to(setting.device)


class Stepper:
    """A model with its optimizer and one fixed batch."""

    def __init__(self, variant: str, setting: Setting) -> None:
        self.setting = setting
        model = network(variant, setting)
        self.optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
        self.model: Any = torch.compile(model) if setting.compiled else model
        generator = torch.Generator().manual_seed(1)
        images = torch.randn(setting.batch, 3, *setting.size, generator=generator)
        labels = torch.randint(0, 151, (setting.batch, *setting.size), generator=generator)
        self.images, self.labels = images.to(setting.device), labels.to(setting.device)

    def forward_backward(self) -> float:
        """One forward and backward; the loss."""
        lower = torch.autocast(self.setting.device, torch.bfloat16)
        with lower if self.setting.bf16 else contextlib.nullcontext():
            output = self.model(self.images)
        loss = F.cross_entropy(output.float(), self.labels)
        loss.backward()
        return loss.item()

    def step(self) -> float:
        """One whole training step; the loss."""
        self.optimizer.zero_grad()
        loss = self.forward_backward()
        self.optimizer.step()
        return loss


def _now(setting: Setting) -> float:
    if setting.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def time_both(setting: Setting, steps: int) -> dict[str, Any]:
    """Median seconds of a whole step and of forward + backward, variants alternating."""
    steppers = {variant: Stepper(variant, setting) for variant in VARIANTS}
    whole: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    passes: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    losses: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for index in range(steps + 1):
        for variant, stepper in steppers.items():
            start = _now(setting)
            losses[variant].append(stepper.step())
            middle = _now(setting)
            stepper.optimizer.zero_grad()
            restart = _now(setting)
            stepper.forward_backward()
            end = _now(setting)
            if index:  # the first step allocates
                whole[variant].append(middle - start)
                passes[variant].append(end - restart)
    return {
        "step_s": {variant: statistics.median(values) for variant, values in whole.items()},
        "forward_backward_s": {variant: statistics.median(values) for variant, values in passes.items()},
        "images_per_s": {
            variant: setting.batch / statistics.median(values) for variant, values in whole.items()
        },
        "loss": {variant: values[:3] for variant, values in losses.items()},
    }


def _status(key: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"/proc/self/status has no {key}: this benchmark measures memory on Linux only.")


def memory_of(variant: str, setting: Setting) -> dict[str, float]:
    """MiB before the steps and at the highest point during two steps, in this process."""
    stepper = Stepper(variant, setting)
    for group in stepper.optimizer.param_groups:  # gradients and AdamW's state exist before the clock starts
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    stepper.optimizer.step()
    if setting.device == "cuda":
        stepper.step()  # cuDNN's choice of algorithms takes memory of its own
        before = torch.cuda.memory_allocated() / 2**20
        torch.cuda.reset_peak_memory_stats()
    else:
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    for _ in range(2):
        stepper.step()
    peak = torch.cuda.max_memory_allocated() / 2**20 if setting.device == "cuda" else _status("VmHWM")
    return {"before": before, "peak": peak}


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return int(height), int(width or height)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=_size, default=(128, 128))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--memory-of", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    setting = Setting(
        size=options.size,
        batch=options.batch,
        device=options.device,
        bf16=options.bf16,
        compiled=options.compile,
    )
    if options.memory_of:
        sys.stdout.write(json.dumps(memory_of(options.memory_of, setting)))
        return
    memory = {}
    for variant in VARIANTS:
        command = [sys.executable, __file__, "--memory-of", variant, *sys.argv[1:]]
        # Freed memory goes back at once, so that the high-water mark is the step's and not the allocator's.
        environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": "65536"}
        output = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env=environment
        ).stdout
        memory[variant] = json.loads(output)
    result = time_both(setting, options.steps)
    result["memory_mib"] = memory
    result["setting"] = setting.words
    if options.json:
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
        return
    sys.stdout.write(setting.words + "\n")
    for name in ("step_s", "forward_backward_s", "images_per_s"):
        fused, naive = result[name]["fused"], result[name]["naive"]
        sys.stdout.write(f"{name:20s} fused {fused:.3f}  naive {naive:.3f}  ratio {fused / naive:.2f}\n")
    for name, value in (
        ("peak MiB", lambda m: m["peak"]),
        ("above before", lambda m: m["peak"] - m["before"]),
    ):
        fused, naive = value(memory["fused"]), value(memory["naive"])
        sys.stdout.write(f"{name:20s} fused {fused:.0f}  naive {naive:.0f}  ratio {fused / naive:.2f}\n")
    sys.stdout.write(f"losses fused {result['loss']['fused']}\nlosses naive {result['loss']['naive']}\n")


if __name__ == "__main__":
    main()
