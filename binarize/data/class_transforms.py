"""Transforms of whole images, whose class stays: for training and for evaluation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from binarize.data.transforms import MEAN, STD, CutMiddle

_GREY = [round(255 * m) for m in MEAN]  # becomes 0
# PaddedCrop, Flip and Normalised are in torchvision too, whose checks take most of the time on small images


class OfImage:
    """A transform of the image (3, H, W) uint8 alone; beside it goes the class id.

    Args:
        steps: of torchvision, in this order.
    """

    def __init__(self, steps: list[Any]) -> None:
        self._steps = steps

    def __call__(self, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Both, the image changed: float32, normalised."""
        for step in self._steps:
            image = step(image)
        return image, target


def training_transform(
    *,
    size: tuple[int, int],
    resize: tuple[int, int] | None = None,
    pad: int = 0,
    area: tuple[float, float] | None = None,
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: bool = True,
    rand_augment: int = 0,
    erase: float = 0.0,
) -> OfImage:
    """Image (3, H, W) uint8 to float32 (3, *size), normalised; the class stays.

    In this order:

    Args:
        size: (H, W) that the network sees.
        resize: (H, W) to resize to first.
        pad: pixels of the mean colour around the image, in front of a random crop of `size`, as papers do on
            CIFAR with 4.
        area: least and largest share of the image that a random crop covers, which is then resized to `size`,
            as on ImageNet with 0.08 to 1 (Szegedy et al., arXiv 1409.4842); in place of the crop by `pad`.
        ratio: least and largest width / height of that crop.
        flip: left to right with probability 1/2.
        rand_augment: magnitude, 0 to 30, of two random operations (RandAugment, arXiv 1909.13719); or 0.
        erase: probability with which a random rectangle becomes grey (arXiv 1708.04896).
    """
    steps: list[Any] = []
    if resize is not None:
        steps.append(v2.Resize(list(resize), antialias=True))
    if area is not None:
        steps.append(v2.RandomResizedCrop(list(size), scale=area, ratio=ratio, antialias=True))
    else:
        steps.append(PaddedCrop(size, pad))
    if flip:
        steps.append(Flip())
    if rand_augment:
        steps.append(v2.RandAugment(num_ops=2, magnitude=rand_augment, fill=_GREY))
    steps.append(Normalised())
    if erase:
        steps.append(v2.RandomErasing(p=erase))
    return OfImage(steps)


def evaluation_transform(
    *,
    resize: tuple[int, int] | None = None,
    short_side: int | None = None,
    crop: tuple[int, int] | None = None,
) -> OfImage:
    """Image (3, H, W) uint8 to float32 (3, H', W'), normalised; the class stays.

    In this order:

    Args:
        short_side: resize so that the shorter side is this.
        crop: (H, W) to cut from the middle, at most its size.
        resize: (H, W) of the result, whatever the shape.
    """
    steps: list[Any] = []
    if short_side is not None:
        steps.append(v2.Resize(short_side, antialias=True))
    if crop is not None:
        steps.append(CutMiddle(crop))
    if resize is not None:
        steps.append(v2.Resize(list(resize), antialias=True))
    return OfImage([*steps, Normalised()])


class PaddedCrop:
    """A random crop of the image with a border of the mean colour; a smaller image gets a wider border.

    Args:
        size: (H, W) of the crop.
        pad: pixels of the border on each side.
    """

    def __init__(self, size: tuple[int, int], pad: int) -> None:
        self._size, self._pad = size, pad
        self._grey = torch.tensor(_GREY, dtype=torch.uint8).view(3, 1, 1)

    def __call__(self, image: Tensor) -> Tensor:
        """(3, h, w) uint8 -> (3, H, W)."""
        size = image.shape[-2:]
        borders = [max(self._pad, most - side) for most, side in zip(self._size, size, strict=True)]
        room = [side + 2 * b - most for side, b, most in zip(size, borders, self._size, strict=True)]
        top, left = (int(torch.randint(free + 1, ())) for free in room)
        if not any(borders):
            return image[:, top : top + self._size[0], left : left + self._size[1]]
        cropped = self._grey.expand(3, *self._size).clone()
        # where the image lies in the crop, and the part of it that is seen
        y, x = borders[0] - top, borders[1] - left
        rows = slice(max(y, 0), min(y + size[0], self._size[0]))
        columns = slice(max(x, 0), min(x + size[1], self._size[1]))
        seen = image[:, rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
        cropped[:, rows, columns] = seen
        return cropped


class Flip:
    """Left to right with probability 1/2."""

    def __call__(self, image: Tensor) -> Tensor:
        """(3, H, W)."""
        return image.flip(-1) if torch.rand(()) < 0.5 else image


class Normalised:
    """Divide by 255, subtract the mean, divide by the deviation, in two passes."""

    def __init__(self) -> None:
        self._mean = 255.0 * torch.tensor(MEAN).view(3, 1, 1)
        self._scale = 1.0 / (255.0 * torch.tensor(STD).view(3, 1, 1))

    def __call__(self, image: Tensor) -> Tensor:
        """(3, H, W) uint8 -> float32."""
        return (image - self._mean) * self._scale
