"""A fixed list of networks, timed packed and against all rivals; one that fails does not stop the others."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from binarize.bench.measure import bench
from binarize.bench.rivals import RIVALS, why_not
from binarize.bench.variants import variants
from binarize.errors import BinarizeError, first_line

PACKED = "packed"
LAYER = "packed, layer"
"""Names of the packed networks in a row: with the options as given; with one scale per layer."""


@dataclass(frozen=True)
class Entry:
    """A network of the suite.

    Attributes:
        target: a MODEL of the command line.
        size: height and width of its image.
    """

    target: str
    size: int


SUITE = (
    Entry("resnet18", 224),
    Entry("resnet50", 224),
    Entry("convnext_tiny", 224),
    Entry("efficientnet_b0", 224),
    Entry("mobilenetv3_large_100", 224),
    Entry("regnety_004", 224),
    Entry("densenet121", 224),
    Entry("hrnet_w18_small", 224),
    Entry("vgg11_bn", 224),
    Entry("swin_tiny_patch4_window7_224", 224),
    Entry("vit_small_patch16_224", 224),
    Entry("upernet:convnext_tiny?num_classes=151", 480),
    Entry("torchvision:deeplabv3_resnet50", 480),
)
AGAINST = ("compile", *RIVALS)
"""What the suite compares with, where it can run."""


@dataclass(frozen=True)
class Networks:
    """What is timed of one entry.

    Attributes:
        packed: deployed networks by name; the first is the one that parts are listed of.
        plain: the float network.
        x: images (N, C, H, W).
        setting: entries for the row: the method, the options of `deploy`.
    """

    packed: Mapping[str, nn.Module]
    plain: nn.Module
    x: Tensor
    setting: Mapping[str, Any]


def possible() -> tuple[list[str], dict[str, str]]:
    """Of `AGAINST`: what can run here; why the others cannot, by name."""
    reasons = {name: why_not(name) if name in RIVALS else "" for name in AGAINST}
    return [n for n in AGAINST if not reasons[n]], {n: why for n, why in reasons.items() if why}


def run_entry(
    entry: Entry,
    build: Callable[[Entry], Networks],
    against: Sequence[str],
    *,
    rounds: int = 7,
    passes: int | None = None,
    memory_kept: bool = False,
) -> dict[str, Any]:
    """The row of one network, plain values only.

    Args:
        entry: the network.
        build: makes what is timed.
        against: names of baselines.
        rounds: as of `bench`.
        passes: as of `bench`.
        memory_kept: as of `bench`.

    Returns:
        `network`, `size` and `seconds`; with `error`, a sentence, if it failed, or else with what
        `Bench.as_dict` gives, `differences` (of baselines from the float network), `failed` (reasons, by
        baseline) and `ratios` (`ratios`).
    """
    began = time.perf_counter()
    row: dict[str, Any] = {"network": entry.target, "size": entry.size}
    try:
        networks = build(entry)
        failed: dict[str, str] = {}
        timed = variants(networks.packed, networks.plain, networks.x, against, failed=failed)
        found = bench(timed, networks.x.shape, rounds=rounds, passes=passes, memory_kept=memory_kept)
        row |= {**found.as_dict(), **networks.setting, "failed": failed}
        row["differences"] = {v.name: v.difference for v in timed if v.difference is not None}
        row["ratios"] = ratios({name: found.median(name) for name in found.times}, list(networks.packed))
    except Exception as error:  # of any network; the next one may work
        text = first_line(error)
        row["error"] = text if isinstance(error, BinarizeError) else f"{type(error).__name__}: {text}"
    torch.compiler.reset()
    gc.collect()
    return {**row, "seconds": time.perf_counter() - began}


def ratios(medians: Mapping[str, float], packed: Sequence[str]) -> dict[str, Any]:
    """How many times as long as each packed network the others take, and the fastest of them.

    Args:
        medians: seconds by variant.
        packed: names of the packed networks.

    Returns:
        `best`, the name of the fastest baseline (None without any), and for each packed network a dict of
        ratios by baseline, where `best` is that of the fastest.
    """
    others = {name: seconds for name, seconds in medians.items() if name not in packed}
    best = min(others, key=lambda name: others[name], default=None)
    made: dict[str, Any] = {"best": best}
    for name in packed:
        made[name] = {other: seconds / medians[name] for other, seconds in others.items()}
        if best is not None:
            made[name]["best"] = made[name][best]
    return made


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Over all rows without an error: by packed network and baseline, and for `best`.

    Returns:
        Dicts of `geometric_mean`, `least`, `least_network` and `networks`, how many there are.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        for packed, ratio in row.get("ratios", {}).items():
            if packed != "best":
                for other, times in ratio.items():
                    found.setdefault(packed, {}).setdefault(other, {})[row["network"]] = times
    return {
        packed: {other: _summed_up(times) for other, times in by_other.items()}
        for packed, by_other in found.items()
    }


def _summed_up(times: Mapping[str, float]) -> dict[str, Any]:
    least = min(times, key=lambda network: times[network])
    mean = math.exp(sum(map(math.log, times.values())) / len(times))
    return {"geometric_mean": mean, "least": times[least], "least_network": least, "networks": len(times)}
