r"""The last part of the quick start, from end to end: own network, own images, binary, deployed, inspected.

    python docs/examples/own_model_walk.py [FOLDER]

It makes what you have already, a file `nets.py` with a network of plain PyTorch and two folders with images
and masks, and then runs the commands of docs/quick-start.md one after the other, as you would type them.
Read it as a list of commands; docs/quick-start.md says what each is for.
"""

from __future__ import annotations

import inspect
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from binarize_my_unet import UNet, double_conv, drawn
from PIL import Image

IMAGES = 80
COMMANDS = r"""
binarize convert 'nets.py:UNet?classes=3' --out converted.safetensors
binarize summary converted.safetensors --model 'nets.py:UNet?classes=3'
binarize init --images photos --masks masks --labels soil,berry,leaf --network nets.py:UNet
binarize data check recipe.yaml
binarize train recipe.yaml --set training.epochs=12
binarize data floor recipe.yaml
binarize evaluate runs/recipe
binarize predict runs/recipe photos/000.png
binarize deploy runs/recipe --out packed.safetensors
binarize verify runs/recipe
binarize bench runs/recipe
binarize inspect runs/recipe --out inspected
binarize report runs/recipe --out report.html
"""


def prepare(folder: Path) -> None:
    """`nets.py`, `photos` and `masks`: the part that you bring."""
    code = "import torch\nfrom torch import nn\nfrom torch.nn import functional as F\n\n\n"
    code += "\n\n".join(inspect.getsource(part) for part in (double_conv, UNet))
    (folder / "nets.py").write_text(code.replace("width: int = 16", "width: int = 8"), encoding="utf-8")
    for name in ("photos", "masks"):
        (folder / name).mkdir(exist_ok=True)
    for number, (image, labels) in enumerate(drawn(IMAGES, seed=0)):
        Image.fromarray(image).save(folder / "photos" / f"{number:03d}.png")
        Image.fromarray(labels.astype(np.uint8)).save(folder / "masks" / f"{number:03d}.png")


def main(folder: Path) -> None:
    """Run all commands in the folder; the first one that fails ends the walk."""
    folder.mkdir(parents=True, exist_ok=True)
    prepare(folder)
    began = time.monotonic()
    for line in COMMANDS.strip().splitlines():
        print(f"\n$ {line}", flush=True)
        subprocess.run([sys.executable, "-m", *shlex.split(line)], cwd=folder, check=True)
    print(f"\nDone in {time.monotonic() - began:.0f} s. Look at {folder / 'report.html'} in a browser.")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "walk"))
