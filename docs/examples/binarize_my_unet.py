r"""Binarize a U-Net of your own: convert, train, compare with the float network, deploy, verify, predict.

    python docs/examples/binarize_my_unet.py
    python docs/examples/binarize_my_unet.py --images photos --masks masks --epochs 100

The first line needs no data: the script draws images of berries and leaves. The second one takes images and
masks of yours, files of the same names. It takes about half a minute on two cores, and writes into
`my-unet/`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image
from torch import nn
from torch.nn import functional as F

import binarize
from binarize.data import Labels
from binarize.runtime.verify import verify
from binarize.training import evaluate, fit

Pairs = list[tuple[np.ndarray, np.ndarray]]  # images (H, W, 3) uint8 and class ids (H, W)

# ---- 1. A network of your own: plain PyTorch, nothing in it knows of binarize. ----


def double_conv(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions with norm and ReLU."""
    layers: list[nn.Module] = []
    for before in (inputs, outputs):
        conv = nn.Conv2d(before, outputs, 3, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Two steps down, two up: (N, 3, H, W), H and W multiples of 4, to scores (N, classes, H, W)."""

    def __init__(self, classes: int, width: int = 16) -> None:
        super().__init__()
        self.down1 = double_conv(3, width)
        self.down2 = double_conv(width, 2 * width)
        self.middle = double_conv(2 * width, 4 * width)
        self.up2 = double_conv(6 * width, 2 * width)
        self.up1 = double_conv(3 * width, width)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of the classes for each pixel."""
        fine = self.down1(x)
        coarse = self.down2(F.max_pool2d(fine, 2))
        x = self.middle(F.max_pool2d(coarse, 2))
        x = self.up2(torch.cat([F.interpolate(x, scale_factor=2.0), coarse], dim=1))
        x = self.up1(torch.cat([F.interpolate(x, scale_factor=2.0), fine], dim=1))
        return self.head(x)


# ---- 2. Data: anything with a length that gives pairs (image, target); here a list. ----

NAMES = ("soil", "berry", "leaf")
SIDE = 48


def drawn(count: int, seed: int) -> Pairs:
    """Images of berries (red discs) and leaves (green ellipses) on soil, in changing light, with noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    pairs = []
    for _ in range(count):
        image = np.array([0.45, 0.33, 0.25]) + random.normal(0, 0.12, (SIDE, SIDE, 1))
        labels = np.zeros((SIDE, SIDE), dtype=np.int64)
        for kind in random.integers(1, 3, size=6):
            u, v = x - random.uniform(), y - random.uniform()
            angle, radius = random.uniform(0, np.pi), random.uniform(0.07, 0.16)
            u, v = u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle)
            inside = np.hypot(u, v if kind == 1 else 2.5 * v) < (radius if kind == 1 else 1.6 * radius)
            image[inside] = [(0.7, 0.15, 0.2), (0.25, 0.5, 0.2)][kind - 1] + random.normal(0, 0.08, 3)
            labels[inside] = kind
        light = 1 + 0.5 * (x * random.uniform(-1, 1) + y * random.uniform(-1, 1))
        image = image * light[..., None] + random.normal(0, 0.05, image.shape)
        pairs.append(((255 * image.clip(0, 1)).astype(np.uint8), labels))
    return pairs


def read(images: Path, masks: Path, side: int) -> tuple[Pairs, tuple[str, ...]]:
    """Pairs of files of the same names, in one size; each value of the masks becomes a class."""
    paths = {path.stem: path for path in sorted(masks.iterdir())}
    found = [(path, paths[path.stem]) for path in sorted(images.iterdir()) if path.stem in paths]
    if len(found) < 3:
        raise SystemExit(
            f"{images} and {masks} have {len(found)} files of the same names; expected 3 or more."
        )
    pairs = []
    for image, mask in found:
        pixels = np.array(Image.open(image).convert("RGB").resize((side, side), Image.Resampling.BILINEAR))
        pairs.append((pixels, np.array(Image.open(mask).resize((side, side), Image.Resampling.NEAREST))))
    values = np.unique(np.concatenate([np.unique(labels) for _, labels in pairs]))
    if len(values) > 50 or any(labels.ndim != 2 for _, labels in pairs):
        raise SystemExit(f"{masks}: expected masks of one channel whose values are classes.")
    names = tuple(f"value {value}" for value in values)
    return [(image, np.searchsorted(values, labels).astype(np.int64)) for image, labels in pairs], names


# ---- 3. From here on it is binarize. ----


def main(arguments: argparse.Namespace) -> None:
    """The whole way, from the float network to a picture of what its packed binary form predicts."""
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    if arguments.images:
        pairs, names = read(arguments.images, arguments.masks, SIDE)
        parts = max(1, len(pairs) // 5)
        train, val = pairs[parts:], pairs[:parts]
    else:
        train, val, names = drawn(96, seed=0), drawn(24, seed=1), NAMES
    palette = tuple(PALETTE[i % len(PALETTE)] for i in range(len(names)))
    truth = Labels(names=names, palette=palette)  # what the numbers in the masks mean

    torch.manual_seed(0)
    network = UNet(len(names), width=8)
    example = torch.rand(1, 3, SIDE, SIDE)

    print("\nThe plan: which layers become binary, which stay float, and why\n")
    binary = binarize.apply(network, "bidense", example_inputs=example)  # `network` itself stays as it is
    print(binary.binarize_plan)
    print(binarize.summary(binary, (3, SIDE, SIDE)))

    # `fit` converts by itself where `method` is given. Equal settings for both networks.
    settings = {"truth": truth, "val": val, "epochs": arguments.epochs, "batch": 8, "lr": 3e-3}
    print("\nTraining the float network\n")
    plain = fit(network, train, **settings, tell=print).network
    print("\nTraining the binary network\n")
    trained = fit(network, train, **settings, method="bidense", tell=print).network

    # One bit for each binary weight: `deploy` gives the network that runs on them, `save` writes its file.
    packed = binarize.deploy(trained)
    float_file = binarize.save(plain, out / "float.safetensors")
    packed_file = binarize.save(trained, out / "packed.safetensors", packed=True)
    print("\nThe packed network against the trained one, layer by layer\n")
    print(verify(trained, packed, [prepared(image, trained) for image, _ in val[:4]]))

    print("\nOn images that the training did not see\n")
    rows = [("constant prediction", Constant(train, len(names)), None)]
    rows += [("float", plain, float_file), ("binary, packed", packed, packed_file)]
    captions = {}
    for name, model, file in rows:
        miou = evaluate(model, val, truth=truth)["miou"]
        size = "" if file is None else f"{file.stat().st_size / 1e3:.1f} kB"
        print(f"{name:20} mIoU {miou:.3f}  {size}")
        captions[name] = f"{name}\nmIoU {miou:.3f}   {size}"

    # The file is all that a program needs: the network, its classes, and how images are prepared.
    again = binarize.load(packed_file, model=UNet(len(names), width=8))
    columns = {
        "image": [image for image, _ in val[:SHOWN]],
        "truth": [colours(labels, truth) for _, labels in val[:SHOWN]],
        captions["float"]: [np.array(binarize.predict(plain, image).picture()) for image, _ in val[:SHOWN]],
        captions["binary, packed"]: [
            np.array(binarize.predict(again, image).picture()) for image, _ in val[:SHOWN]
        ],
    }
    draw(columns, truth, out / "predictions.png")
    print(f"\nwritten  {packed_file}, {out / 'predictions.png'}")


def prepared(image: np.ndarray, model: nn.Module) -> torch.Tensor:
    """An image (H, W, 3) for the network, (1, 3, H, W), by the mean and std that `fit` noted in it."""
    mean, std = (np.array(model.binarize_preprocessing[key]) for key in ("mean", "std"))
    return torch.tensor((image / 255 - mean) / std, dtype=torch.float32).permute(2, 0, 1)[None]


class Constant(nn.Module):
    """The most frequent class of some masks, for every pixel: what a network has to beat."""

    def __init__(self, pairs: Pairs, classes: int) -> None:
        super().__init__()
        counts = np.bincount(np.concatenate([labels.ravel() for _, labels in pairs]), minlength=classes)
        self.register_buffer("scores", F.one_hot(torch.tensor(counts.argmax()), classes).float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same scores (N, classes, H, W), whatever the images are."""
        return self.scores.view(1, -1, 1, 1).expand(len(x), -1, *x.shape[2:])


# ---- 4. The picture. ----

SHOWN = 3
# Told apart by the colour-blind (Okabe and Ito).
PALETTE = ((110, 110, 110), (213, 94, 0), (0, 158, 115), (86, 180, 233), (230, 159, 0), (204, 121, 167))


def colours(labels: np.ndarray, truth: Labels) -> np.ndarray:
    """Class ids (H, W) as (H, W, 3)."""
    return np.array(truth.palette, dtype=np.uint8)[labels]


def draw(columns: dict[str, Sequence[np.ndarray]], truth: Labels, path: Path) -> None:
    """Pictures in columns with a caption under each, and a key of the classes."""
    rows = max(map(len, columns.values()))
    figure = Figure(figsize=(2.1 * len(columns), 2.0 * rows + 0.8), dpi=110, layout="constrained")
    grid = figure.subplots(rows, len(columns), squeeze=False)
    for column, (caption, pictures) in zip(grid.T, columns.items(), strict=True):
        for axes, picture in zip(column, pictures, strict=True):
            axes.imshow(picture, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        column[-1].set_xlabel(caption, fontsize=9)
    patches = [
        Patch(color=np.array(colour) / 255, label=name)
        for name, colour in zip(truth.names, truth.palette, strict=True)
    ]
    figure.legend(handles=patches, loc="outside upper center", ncols=4, fontsize=9, frameon=False)
    figure.savefig(path)


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, help="folder of your images; the script draws some without it")
    parser.add_argument("--masks", type=Path, help="folder of their masks, under the same names")
    parser.add_argument("--epochs", type=int, default=12, help="how often all images are seen (12)")
    parser.add_argument("--out", type=Path, default=Path("my-unet"), help="folder of results (my-unet)")
    found = parser.parse_args(words)
    if (found.images is None) != (found.masks is None):
        parser.error("give both --images and --masks, or neither")
    return found


if __name__ == "__main__":
    main(parsed())
