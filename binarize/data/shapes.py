"""Textured overlapping shapes, drawn on demand: images for a start without a download.

Every image has labels and true depth. All shapes have the same true size, so that their size in the picture
shows their distance, as does the haze; nearer ones cover farther ones. One of a shape's two colours is near
the colour of its class, the other is random: colour helps, form decides.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from binarize.data.catalog import register_dataset
from binarize.data.dataset import DenseDataset, Depth, Labels, Pair, Sample
from binarize.errors import ConfigError

_NAMES = ("background", "disc", "square", "triangle", "ring", "cross")
_PALETTE = ((64, 64, 64), (214, 69, 65), (77, 175, 74), (55, 126, 184), (255, 190, 11), (152, 78, 163))
_SPLITS = {"train": 0, "val": 1, "test": 2}
_LENGTHS = {"train": 512, "val": 64, "test": 128}
_NEAR, _FAR = 2.0, 10.0  # metres
_SPAN = 0.9  # half the size of a shape at 1 m, in heights of the image


@register_dataset("shapes", task=None, splits=tuple(_SPLITS), folders=(), layout="")
def shapes(
    root: Path | None,
    split: str,
    *,
    task: Literal["segmentation", "depth"] = "segmentation",
    size: tuple[int, int] | list[int] = (96, 128),
    length: int | None = None,
    number: int = 7,
    seed: int = 0,
) -> DenseDataset:
    """Drawn images; no two splits or seeds share one.

    Args:
        root: not used.
        split: train (512 images by default), val (64) or test (128).
        task: labels of six classes, or depth of 2 to 10 m.
        size: (H, W) in pixels.
        length: number of images; None for the default.
        number: shapes per image.
        seed: of all images.

    Raises:
        ConfigError: a number that is not positive, or another task.
    """
    if task not in ("segmentation", "depth"):
        raise ConfigError(f"data set shapes: task={task!r}, expected 'segmentation' or 'depth'.")
    count = _LENGTHS[split] if length is None else length
    if min(*size, count, number) < 1 or len(size) != 2:
        raise ConfigError(
            f"data set shapes: size={list(size)}, length={count}, number={number}: expected (H, W) and "
            "positive numbers."
        )
    return _Shapes(split, task, (int(size[0]), int(size[1])), count, number, seed)


class _Shapes(DenseDataset):
    def __init__(
        self, split: str, task: str, size: tuple[int, int], length: int, number: int, seed: int
    ) -> None:
        names = [Pair(Path(f"shapes-{split}-{index:05d}.png"), None) for index in range(length)]
        labels = Labels(names=_NAMES, palette=_PALETTE)
        super().__init__(names, labels if task == "segmentation" else Depth(scale=1000.0, most=_FAR))
        self._size = size
        self._number = number
        self._key = (seed, _SPLITS[split])

    def load(self, index: int) -> Sample:
        """Image (3, H, W) uint8; class ids (H, W) int64 or metres (H, W) float32."""
        image, labels, depth = draw(np.random.default_rng((*self._key, index)), self._size, self._number)
        return Sample(image, labels if self.truth.task == "segmentation" else depth)


def draw(random: np.random.Generator, size: tuple[int, int], number: int) -> tuple[Tensor, Tensor, Tensor]:
    """Image (3, H, W) uint8, class ids (H, W) int64 and metres (H, W) float32 of one scene.

    Args:
        random: generator of all choices.
        size: (H, W).
        number: of shapes.
    """
    height, width = size
    y, x = np.meshgrid(
        (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / height, indexing="ij"
    )  # in heights of the image
    depth = _FAR - random.uniform(0.0, 3.0) * y  # a floor that comes nearer at the bottom
    labels = np.zeros(size, dtype=np.int64)
    colour = _texture(random, x, y)
    for distance in sorted(random.uniform(_NEAR, 0.8 * _FAR, number), reverse=True):
        kind = int(random.integers(1, len(_NAMES)))
        centre = random.uniform((0.0, 0.0), (width / height, 1.0))
        angle = random.uniform(0.0, 2.0 * math.pi)
        u, v = x - centre[0], y - centre[1]
        u, v = (
            (u * math.cos(angle) + v * math.sin(angle)) * distance / _SPAN,
            (v * math.cos(angle) - u * math.sin(angle)) * distance / _SPAN,
        )
        inside = _inside(kind, u, v)
        colour = np.where(inside, _texture(random, u, v, _PALETTE[kind]), colour)
        labels[inside] = kind
        depth = np.where(inside, distance, depth)
    haze = (depth - _NEAR) / (_FAR - _NEAR) * 0.6
    colour = colour * (1.0 - haze) + 0.8 * haze
    colour = colour + random.normal(0.0, 0.02, colour.shape)
    image = torch.from_numpy((colour.clip(0.0, 1.0) * 255.0).round().astype(np.uint8))
    return image, torch.from_numpy(labels), torch.from_numpy(depth.astype(np.float32))


def _texture(
    random: np.random.Generator, x: np.ndarray, y: np.ndarray, near: tuple[int, int, int] | None = None
) -> np.ndarray:
    """Stripes of two colours (3, H, W), the first one close to `near` if given."""
    first, second = random.uniform(0.0, 1.0, (2, 3, 1, 1))
    if near is not None:
        own = np.asarray(near, dtype=np.float64).reshape(3, 1, 1) / 255.0
        first = (own + 0.5 * (first - 0.5)).clip(0.0, 1.0)
    angle, period, phase = random.uniform(0.0, math.pi), random.uniform(0.08, 0.5), random.uniform()
    wave = np.sin(2.0 * math.pi * ((x * math.cos(angle) + y * math.sin(angle)) / period + phase))
    return first + (second - first) * (0.5 + 0.5 * np.tanh(3.0 * wave))


def _inside(kind: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Where a shape of unit size is."""
    radius = np.hypot(u, v)
    shape = _NAMES[kind]
    if shape == "disc":
        return radius < 0.8
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) < 0.7
    if shape == "triangle":
        return (v < 0.5) & (v > math.sqrt(3.0) * np.abs(u) - 1.0)
    if shape == "ring":
        return (radius < 0.9) & (radius > 0.5)
    return (np.minimum(np.abs(u), np.abs(v)) < 0.25) & (np.maximum(np.abs(u), np.abs(v)) < 0.85)
