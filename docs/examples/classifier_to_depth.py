r"""From a classifier of timm to a network that predicts depth, and from there to a binary one.

    python docs/examples/classifier_to_depth.py
    python docs/examples/classifier_to_depth.py --pretrained --encoder resnet18
    python docs/examples/classifier_to_depth.py --images photos --depths depths --units 1000 --max-depth 10

The first line needs no data and no download: the scenes are drawn, and the encoder starts from random
weights. `--pretrained` takes timm's weights, which are downloaded once. The third line takes data of yours:
images, and depth maps of 16 bits under the same names, with so many units for a metre. It takes about a
minute on two cores, and writes into `depth/`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

import binarize
from binarize.data import Depth
from binarize.errors import ConfigError
from binarize.runtime.verify import verify
from binarize.training import evaluate, fit

SIDE = 48  # of the images, pixels


def main(arguments: argparse.Namespace) -> None:
    """Classifier, float depth network, binary depth network, packed file, picture."""
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    train, val, truth = data(arguments)

    # ---- 1. The classifier is cut open: three of its maps go to a decoder that gives metres. ----
    classifier = timm.create_model(arguments.encoder)
    spec = f"fcn8s:{arguments.encoder}?task=depth&max_depth={truth.most:g}"
    if arguments.pretrained:
        spec += "&pretrained=true"
    torch.manual_seed(0)
    try:
        network = binarize.networks.create(spec)
    except ConfigError as error:
        raise SystemExit(f"{error}\nWithout --pretrained the encoder starts from random weights.") from error
    start = "timm's weights" if arguments.pretrained else "random weights: see --pretrained"
    print(f"classifier  {arguments.encoder}: {parameters(classifier):,} parameters, {start}")
    print(f"depth       {spec}: {parameters(network):,} parameters")

    # ---- 2. The float depth network is trained first. ----
    settings: dict[str, Any] = {"truth": truth, "epochs": arguments.epochs, "batch": 8, "lr": 2e-3}
    print("\nTraining the float network\n")
    plain = fit(network, train, val=val, **settings, tell=print).network

    # ---- 3. Its weights are where the binary network starts: their signs are the first binary weights. ----
    binary = binarize.apply(plain, "bidense", example_inputs=torch.rand(1, 3, SIDE, SIDE))
    print("\nWhat becomes binary\n")
    print(binarize.summary(binary, (3, SIDE, SIDE)))
    converted = evaluate(binary, val, truth=truth)["abs_rel"]
    print(f"\nConverted and not trained yet: AbsRel {converted:.3f}. Training the binary network\n")
    trained = fit(binary, train, val=val, **settings, tell=print).network

    # ---- 4. One bit for each binary weight. ----
    packed = binarize.deploy(trained)
    float_file = binarize.save(plain, out / "float.safetensors")
    packed_file = binarize.save(trained, out / "packed.safetensors", packed=True)
    print("\nThe packed network against the trained one, layer by layer\n")
    print(verify(trained, packed, [prepared(image, trained) for image, _ in examples(val)]))

    # ---- 5. Does it beat a prediction that does not depend on the image? ----
    print("\nOn images that the training did not see: mean of |predicted - true| / true\n")
    median = float(np.median(np.concatenate([depth[depth > 0] for _, depth in examples(train, len(train))])))
    rows = [("constant prediction", Constant(median), None)]
    rows += [("float", plain, float_file), ("binary, packed", packed, packed_file)]
    captions = {}
    for name, model, file in rows:
        found = evaluate(model, val, truth=truth)["abs_rel"]
        size = "" if file is None else f"{file.stat().st_size / 1e6:.2f} MB"
        print(f"{name:20} AbsRel {found:.3f}  {size}")
        captions[name] = f"{name}\nAbsRel {found:.3f}   {size}"

    # ---- 6. The file is all that a program needs: no class, no recipe, no settings. ----
    again = binarize.load(packed_file)
    images, depths = zip(*examples(val), strict=True)
    columns = {
        "image": list(images),
        "true depth": list(depths),
        captions["float"]: [binarize.predict(plain, image).depth for image in images],
        captions["binary, packed"]: [binarize.predict(again, image).depth for image in images],
    }
    draw(columns, out / "predictions.png")
    print(f"\nwritten  {packed_file}, {out / 'predictions.png'}")


class Constant(nn.Module):
    """One depth in metres for every pixel of every image: what a network has to beat."""

    def __init__(self, metres: float) -> None:
        super().__init__()
        self.register_buffer("metres", torch.tensor(metres))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, 1, H, W)."""
        return self.metres.expand(len(x), 1, *x.shape[2:])


def parameters(model: nn.Module) -> int:
    """How many numbers a network learns."""
    return sum(parameter.numel() for parameter in model.parameters())


def prepared(image: np.ndarray, model: nn.Module) -> torch.Tensor:
    """An image (H, W, 3) for the network, (1, 3, H, W), by the mean and std that `fit` noted in it."""
    mean, std = (np.array(model.binarize_preprocessing[key]) for key in ("mean", "std"))
    return torch.tensor((image / 255 - mean) / std, dtype=torch.float32).permute(2, 0, 1)[None]


# ---- Data: anything with a length that gives pairs (image, depth in metres, 0 where it is not known). ----


def data(arguments: argparse.Namespace) -> tuple[Any, Any, Depth]:
    """Training and validation pairs, and what the numbers of the depth maps mean."""
    if arguments.images is None:
        # drawn scenes: shapes of one true size, so that their size in the picture shows their distance
        options = {"task": "depth", "size": (SIDE, SIDE), "number": 4}
        made = [binarize.data.create("shapes", split, **options, length=n) for split, n in PARTS.items()]
        return made[0], made[1], made[0].truth
    depths = {path.stem: path for path in sorted(arguments.depths.iterdir())}
    pairs = []
    for path in sorted(arguments.images.iterdir()):
        if path.stem in depths:
            image = Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
            depth = Image.open(depths[path.stem]).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            metres = np.asarray(depth).astype(np.float32) / arguments.units
            pairs.append((np.asarray(image), np.where(metres <= arguments.max_depth, metres, 0)))
    if len(pairs) < 3:
        raise SystemExit(f"{len(pairs)} files of the same names in both folders; expected 3 or more.")
    parts = max(1, len(pairs) // 5)
    return pairs[parts:], pairs[:parts], Depth(scale=1.0, most=arguments.max_depth)


PARTS = {"train": 128, "val": 24}  # how many scenes are drawn


def examples(pairs: Any, count: int = 3) -> list[tuple[np.ndarray, np.ndarray]]:
    """The first pairs of a data set: images (H, W, 3) and metres (H, W)."""
    found = [pairs[i] for i in range(min(count, len(pairs)))]
    if isinstance(found[0][0], torch.Tensor):  # of the toolkit's data set: (3, H, W)
        found = [(image.permute(1, 2, 0).numpy(), depth.numpy()) for image, depth in found]
    return found


# ---- The picture. ----


def draw(columns: dict[str, Sequence[np.ndarray]], path: Path) -> None:
    """Pictures in columns with a caption under each; all depths in one scale of colours."""
    known = np.concatenate([depth[depth > 0] for depth in columns["true depth"]])
    near, far = np.quantile(known, [0.01, 0.99])
    rows = len(columns["image"])
    figure = Figure(figsize=(2.1 * len(columns) + 0.9, 2.0 * rows + 0.5), dpi=110, layout="constrained")
    grid = figure.subplots(rows, len(columns), squeeze=False)
    shown = None
    for column, (caption, pictures) in zip(grid.T, columns.items(), strict=True):
        for axes, picture in zip(column, pictures, strict=True):
            if picture.ndim == 3:
                axes.imshow(picture, interpolation="nearest")
            else:
                hidden = np.ma.masked_less_equal(picture, 0)  # no depth there
                shown = axes.imshow(hidden, cmap="magma_r", vmin=near, vmax=far, interpolation="nearest")
                axes.set_facecolor("0.5")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        column[-1].set_xlabel(caption, fontsize=9)
    figure.colorbar(shown, ax=grid, label="depth (m)", shrink=0.7, aspect=30)
    figure.savefig(path)


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", default="test_resnet", help="classifier of timm (test_resnet)")
    parser.add_argument("--pretrained", action="store_true", help="start from timm's weights (a download)")
    parser.add_argument("--images", type=Path, help="folder of your images; scenes are drawn without it")
    parser.add_argument("--depths", type=Path, help="folder of their depth maps, under the same names")
    parser.add_argument("--units", type=float, default=1000.0, help="units of the maps for a metre (1000)")
    parser.add_argument(
        "--max-depth", type=float, default=10.0, help="largest depth that counts, metres (10)"
    )
    parser.add_argument("--epochs", type=int, default=15, help="of each training (15)")
    parser.add_argument("--out", type=Path, default=Path("depth"), help="folder of results (depth)")
    found = parser.parse_args(words)
    if (found.images is None) != (found.depths is None):
        parser.error("give both --images and --depths, or neither")
    return found


if __name__ == "__main__":
    main(parsed())
