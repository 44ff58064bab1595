r"""Three methods on one task with one budget: what each costs, and what it reaches.

    python docs/examples/compare_three_methods.py
    python docs/examples/compare_three_methods.py --methods xnor bireal bnext --epochs 40

One small residual network, one data set of drawn images, the same number of epochs and the same seed for
all. Beside the methods stand the float network and a prediction that does not depend on the image. It takes
about a minute on two cores, and writes a table and a picture into `methods/`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F

import binarize
from binarize import bench
from binarize.training import evaluate, fit

SIDE = 48  # of the images of the training, pixels
METHODS = ["bnn", "reactnet", "bidense"]  # `binarize methods` lists all
TIMED = 192  # of the image that is timed: on a very small one, the calls themselves would take the time


# ---- The network: a stem, residual blocks at half the size, a head. ----


class Block(nn.Module):
    """Two convolutions, each with a sum around it, as residual networks for binary weights have them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, width, H, W), as it came."""
        x = F.relu(x + self.norm1(self.conv1(x)))
        return F.relu(x + self.norm2(self.conv2(x)))


class Net(nn.Module):
    """Scores (N, classes, H, W) of images (N, 3, H, W); H and W are multiples of 2."""

    def __init__(self, classes: int, width: int = 32, blocks: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores at the size of the images."""
        return F.interpolate(self.head(self.blocks(self.stem(x))), scale_factor=2.0)


# ---- The comparison. ----


def main(arguments: argparse.Namespace) -> None:
    """Train all, pack all, time all in turn, and put them side by side."""
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"task": "segmentation", "size": (SIDE, SIDE), "number": 3}
    train = binarize.data.create("shapes", "train", **options, length=arguments.images)
    val = binarize.data.create("shapes", "val", **options, length=48)
    torch.manual_seed(0)
    network = Net(len(train.truth.names))
    budget: dict[str, Any] = {"epochs": arguments.epochs, "batch": 8, "lr": 3e-3, "seed": 0}

    trained: dict[str, nn.Module] = {}
    for method in (None, *arguments.methods):  # None: the network as it is, in float
        name = method or "float"
        print(f"\nTraining: {name}\n")
        trained[name] = fit(network, train, method=method, **budget, tell=print).network

    # What runs: the float network as it is, the others on one bit for each binary weight, on one thread.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    packed = {name: binarize.deploy(net) for name, net in trained.items() if name != "float"}
    times = timed(packed, trained["float"])
    torch.set_num_threads(threads)

    rows = []
    for name, net in trained.items():
        file = binarize.save(net, out / f"{name}.safetensors", packed=name != "float")
        figures = evaluate(packed.get(name, net), val)
        size = file.stat().st_size / 1e6
        rows.append({"method": name, "mb": size, "ms": times[name], "miou": figures["miou"]})
    floor = evaluate(Constant(len(train.truth.names)), val)["miou"]

    print(f"\n{'':20}{'file, MB':>10}{'ms':>10}{'mIoU':>10}")
    for row in rows:
        print(f"{row['method']:20}{row['mb']:>10.3f}{row['ms']:>10.2f}{row['miou']:>10.3f}")
    print(f"{'constant prediction':20}{'-':>10}{'-':>10}{floor:>10.3f}")
    print(f"\nms: median for one image of {TIMED}x{TIMED} on one thread, {bench.measure.machine()['cpu']}")
    print(
        "mIoU: one training each. Another seed moves it by some hundredths, so do not rank by less than that."
    )
    (out / "table.json").write_text(json.dumps({"rows": rows, "constant": floor}, indent=2) + "\n")
    draw(rows, floor, out / "methods.png")
    print(f"\nwritten  {out / 'table.json'}, {out / 'methods.png'}")


def timed(packed: dict[str, nn.Module], plain: nn.Module) -> dict[str, float]:
    """Milliseconds for one image by name: all are timed in turn, so that a slow moment slows all of them."""
    x = torch.rand(1, 3, TIMED, TIMED)
    variants = bench.variants(packed, plain, x, ["channels_last"])
    found = bench.bench(variants, x.shape, rounds=5)
    names = {"channels_last": "float"}  # torch's usual way to run a float network fast
    return {names.get(v.name, v.name): 1e3 * found.median(v.name) for v in variants}


class Constant(nn.Module):
    """Class 0, the background, for every pixel: what a network has to beat."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("scores", F.one_hot(torch.tensor(0), classes).float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same scores (N, classes, H, W), whatever the images are."""
        return self.scores.view(1, -1, 1, 1).expand(len(x), -1, *x.shape[2:])


# ---- The picture. ----

# Told apart by the colour-blind (Okabe and Ito); each bar also has its name and its number.
FLOAT, BINARY = "#999999", "#0072B2"


def draw(rows: Sequence[dict[str, Any]], floor: float, path: Path) -> None:
    """Three panels of bars: megabytes, milliseconds, mIoU."""
    names = [row["method"] for row in rows]
    colours = [FLOAT if name == "float" else BINARY for name in names]
    figure = Figure(figsize=(9.0, 0.42 * len(rows) + 1.2), dpi=110, layout="constrained")
    panels = (
        ("mb", "file (MB), less is better", "{:.3f}"),
        ("ms", f"one image of {TIMED}x{TIMED} (ms), less is better", "{:.2f}"),
        ("miou", "mIoU, more is better", "{:.3f}"),
    )
    for axes, (key, title, form) in zip(figure.subplots(1, 3, sharey=True), panels, strict=True):
        values = [row[key] for row in rows]
        bars = axes.barh(names, values, color=colours, height=0.65)
        axes.bar_label(bars, [form.format(value) for value in values], padding=3, fontsize=9)
        axes.set_xlim(0, 1.25 * max(values))
        axes.set_xlabel(title, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
        axes.invert_yaxis() if key == "mb" else None
        if key == "miou":
            axes.axvline(floor, color="black", linewidth=1, linestyle="--")
            axes.set_title("dashed: constant prediction", fontsize=8)
    figure.savefig(path)


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", default=METHODS, help="(bnn reactnet bidense)")
    parser.add_argument("--images", type=int, default=128, help="drawn for the training (128)")
    parser.add_argument("--epochs", type=int, default=12, help="of each training (12)")
    parser.add_argument("--out", type=Path, default=Path("methods"), help="folder of results (methods)")
    return parser.parse_args(words)


if __name__ == "__main__":
    main(parsed())
