r"""Draw docs/pictures/headline.png from two runs, and from the milliseconds that `bench` measured.

python docs/pictures/headline.py runs/depth-float runs/depth-bidense 5.5 1.8

The runs are made by
binarize train shapes/tiny-float --set data.options.task=depth --set data.options.number=4 \
    --out runs/depth-float
binarize train shapes/tiny-bidense --set data.options.task=depth --set data.options.number=4 \
    --out runs/depth-bidense
and timed by
binarize bench runs/depth-bidense --against eager,channels_last --rounds 15
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

import binarize
from binarize.data import create
from binarize.training import pictures, saved

HERE = Path(__file__).parent
SHOWN = (0, 5)  # of the test images


def main(runs: list[str], times: list[str]) -> None:
    """Image, truth and both predictions, with what each network takes under them."""
    networks = [saved.load_with_truth(Path(run)) for run in runs]
    recipe, _, truth = networks[0]
    images = create(recipe.data.name, "test", **recipe.data.options)
    columns: list[list[torch.Tensor]] = [[] for _ in range(2 + len(runs))]
    shown = [images.load(index) for index in SHOWN]
    span = pictures.depth_span(*(true for _, true in shown))
    for image, true in shown:
        found = [pictures.predict_image(net, image, r.data.evaluation, truth) for r, net, _ in networks]
        for column, picture in zip(
            columns, [image, *(pictures.coloured(m, truth, span) for m in (true, *found))], strict=True
        ):
            column.append(picture)
    errors = [absolute_relative(Path(run)) for run in runs]
    captions = ["image", "true depth"]
    names = ("float", "BiDense, packed")
    for name, run, time, error in zip(names, runs, times, errors, strict=True):
        captions.append(f"{name}\n{megabytes(Path(run)):.2f} MB, {time} ms\nAbsRel {error:.3f}")
    figure = Figure(figsize=(6.0, 3.45), dpi=150, layout="constrained")  # legible at 400 pixels too
    panels = figure.subplots(1, 4)
    for axes, column, caption in zip(panels, columns, captions, strict=True):
        gap = torch.full((3, 2, column[0].shape[2]), 255, dtype=torch.uint8)
        axes.imshow(
            torch.cat([column[0], gap, column[1]], 1).permute(1, 2, 0).numpy(), interpolation="nearest"
        )
        axes.set_xlabel(caption, fontsize=11)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    colours = ScalarMappable(Normalize(*span), "magma_r")  # near is bright
    bar = figure.colorbar(
        colours, ax=panels[-1], location="right", fraction=0.09, pad=0.06, aspect=26, shrink=0.86
    )
    bar.set_label("depth (m)", fontsize=10)
    bar.ax.tick_params(labelsize=10)
    bar.ax.invert_yaxis()
    figure.savefig(HERE / "headline.png", metadata={"Software": None})


def absolute_relative(run: Path) -> float:
    """The figure of `binarize evaluate`."""
    command = [sys.executable, "-m", "binarize", "evaluate", str(run), "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["abs_rel"]


def megabytes(run: Path) -> float:
    """Of the float network's file, or of the binary one's packed file."""
    path = run / "model.safetensors"
    model = binarize.load(path)
    if not any(type(module).__name__.startswith("Binary") for module in model.modules()):
        return path.stat().st_size / 1e6
    with tempfile.TemporaryDirectory() as folder:
        return binarize.save(model, Path(folder) / "packed.safetensors", packed=True).stat().st_size / 1e6


if __name__ == "__main__":
    main(sys.argv[1:3], sys.argv[3:5])
