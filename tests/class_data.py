"""Tiny classification data in every layout, and a recipe of a few seconds on it."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

TEN = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def picture(label: int, number: int, size: tuple[int, int] = (32, 32)) -> np.ndarray:
    """(H, W, 3) uint8: noise, brighter for higher classes."""
    random = np.random.default_rng((label, number))
    return (random.uniform(0, 60, (*size, 3)) + 19 * label).astype(np.uint8)


def encoded(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format="PNG")
    return stream.getvalue()


def images(classes: tuple[str, ...], each: int, size: tuple[int, int] = (32, 32)) -> dict[str, bytes]:
    """Files by `<class>/<number>.png`."""
    return {
        f"{name}/{i:04d}.png": encoded(picture(label, i, size))
        for label, name in enumerate(classes)
        for i in range(each)
    }


def folder(place: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    return place


def archive(path: Path, files: dict[str, bytes], above: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for name, content in files.items():
            file.writestr(f"{above}{name}", content)
    return path


def cifar_zips(root: Path, train: int = 10, test: int = 3) -> Path:
    archive(root / "train.zip", images(TEN, train), "train/")
    archive(root / "test.zip", images(TEN, test), "test/")
    return root


def records(labels: np.ndarray, prefix: int = 0) -> bytes:
    """Official binary records of images by their label; `prefix` coarse labels in front of it."""
    found = b""
    for number, label in enumerate(labels.tolist()):
        pixels = picture(label % 10, number).transpose(2, 0, 1).tobytes()
        found += bytes([0] * prefix) + bytes([label]) + pixels
    return found


def values(root: Path, **training: Any) -> dict[str, Any]:
    """A recipe on `cifar_zips`, as plain values."""
    return {
        "data": {
            "name": "cifar10",
            "root": str(root),
            "augmentation": {"size": [32, 32], "pad": 4},
            "evaluation": {"batch": 16},
        },
        "network": {"name": "resnet20-cifar", "options": {"width": 4}},
        "method": {"name": "bidense"},
        "training": {"epochs": 2, "batch": 30, "lr": 0.05, "optimizer": "sgd", **training},
    }
