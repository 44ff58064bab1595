"""Speed of the engine: layers per second from a ResNet-18 to a network of 1,000 convolutions.

The engine is `plan` + `execute`; building the float model is not part of it. One thread, each model planned
and converted several times, median. The time should grow with the number of modules, not with its square:
layers per second stay about the same. The last column is the slope between neighbours of one architecture,
log(time ratio) / log(layers ratio): 1 is linear.

    python benchmarks/convert.py [--method bidense] [--repeats 3] [--json]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from typing import Any

import timm
import torch
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

import binarize
from binarize.graph import execute

RESNETS = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet66": (4, 8, 16, 4),
    "resnet130": (8, 16, 32, 8),
    "resnet258": (16, 32, 64, 16),
    "resnet514": (32, 64, 128, 32),
    "resnet1002": (62, 125, 250, 63),
}
OTHERS = (
    "convnext_tiny",
    "efficientnet_b0",
    "densenet121",
    "hrnet_w18_small",
    "swin_tiny_patch4_window7_224",
)


def models() -> dict[str, nn.Module]:
    """Plain ResNets of growing depth, narrow so that memory plays no part, then other architectures."""
    built: dict[str, nn.Module] = {
        name: ResNet(BasicBlock, layers, channels=(8, 16, 32, 64), stem_width=8)
        for name, layers in RESNETS.items()
    }
    return built | {name: timm.create_model(name) for name in OTHERS}


def measure(model: nn.Module, method: str, repeats: int) -> dict[str, Any]:
    """Median seconds of plan and of execution, and what was converted."""
    plans, executions = [], []
    made = binarize.plan(model, method)  # imports and caches first
    for _ in range(repeats):
        start = time.perf_counter()
        made = binarize.plan(model, method)
        middle = time.perf_counter()
        execute(made, model)
        end = time.perf_counter()
        plans.append(middle - start)
        executions.append(end - middle)
    return {
        "modules": sum(1 for _ in model.modules()),
        "layers": len(made.rows),
        "converted": len(made.converted),
        "plan_s": statistics.median(plans),
        "execute_s": statistics.median(executions),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", default="bidense")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {name: measure(model, options.method, options.repeats) for name, model in models().items()}
    for before, name in zip(RESNETS, list(RESNETS)[1:], strict=False):
        a, b = results[before], results[name]
        times = [r["plan_s"] + r["execute_s"] for r in (a, b)]
        results[name]["slope"] = math.log(times[1] / times[0]) / math.log(b["layers"] / a["layers"])
    if options.json:
        sys.stdout.write(json.dumps(results, indent=2) + "\n")
        return
    sys.stdout.write(f"{'model':30s} modules layers  plan s  execute s  layers/s  slope\n")
    for name, r in results.items():
        rate = r["layers"] / (r["plan_s"] + r["execute_s"])
        slope = f"{r['slope']:.2f}" if "slope" in r else ""
        sys.stdout.write(
            f"{name:30s} {r['modules']:7d} {r['layers']:6d} {r['plan_s']:7.3f} {r['execute_s']:10.3f} "
            f"{rate:9.0f} {slope:>6s}\n"
        )


if __name__ == "__main__":
    main()
