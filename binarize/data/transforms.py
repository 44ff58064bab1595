"""Joint transforms of an image and its truth, for training and for evaluation.

torchvision's transforms v2 act on an `Image` and a `Mask` (class ids or metres) alike; this module adds what
they lack. All random choices come from torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from binarize.data.dataset import IGNORE, Depth, Labels
from binarize.errors import ConfigError

MEAN = (0.485, 0.456, 0.406)
"""Mean of ImageNet's images in [0, 1], R, G, B; timm's weights were trained with it."""

STD = (0.229, 0.224, 0.225)
"""Likewise their standard deviations."""

_GREY = tuple(round(255 * m) for m in MEAN)  # fills the outside of the image: becomes 0

Joint = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def training_transform(
    truth: Labels | Depth,
    *,
    size: tuple[int, int],
    resize: tuple[int, int] | None = None,
    border: tuple[int, int, int, int] | None = None,
    bottom: tuple[int, int] | None = None,
    long_side: int | None = None,
    scale: tuple[float, float] = (1.0, 1.0),
    rotate: float = 0.0,
    flip: bool = True,
    colour: bool = False,
) -> Joint:
    """Image (3, H, W) uint8 and truth (H, W) to float32 (3, *size), normalised, and (*size).

    In this order:

    Args:
        truth: what the truth is.
        size: (H, W) of the random crop at the end; a smaller image is padded, with an unknown truth.
        resize: (H, W) to resize to first.
        border: (top, bottom, left, right) rows and columns to cut to first.
        bottom: (H, W) to cut from the middle of the bottom first.
        long_side: resize so that the longer side is this, times a number drawn from `scale`.
        scale: of both sides.
        rotate: by up to this many degrees in either direction.
        flip: left to right with probability 1/2.
        colour: as in BTS with probability 1/2: gamma in [0.9, 1.1], brightness in [0.75, 1.25] indoors
            (depths to 10 m) or [0.9, 1.1], channels in [0.9, 1.1].
    """
    steps: list[Any] = []
    if border is not None:
        steps.append(Cut(border))
    if bottom is not None:
        steps.append(CutBottom(bottom))
    if resize is not None:
        steps.append(v2.Resize(list(resize), antialias=True))
    fill: dict[Any, Any] = {tv_tensors.Image: _GREY, tv_tensors.Mask: _nothing(truth)}
    if rotate:
        steps.append(
            v2.RandomRotation((-rotate, rotate), interpolation=v2.InterpolationMode.BILINEAR, fill=fill)
        )
    if long_side is not None or scale != (1.0, 1.0):
        steps.append(RandomScale(long_side, scale))
    if flip:
        steps.append(v2.RandomHorizontalFlip())
    steps.append(v2.RandomCrop(size, pad_if_needed=True, fill=fill))
    if colour:
        steps.append(BTSColour(0.25 if isinstance(truth, Depth) and truth.most <= 10 else 0.1))
    return v2.Compose([*steps, *_normalised()])


def evaluation_transform(
    truth: Labels | Depth,
    *,
    resize: tuple[int, int] | None = None,
    short_side: int | None = None,
    crop: tuple[int, int] | None = None,
    bottom: tuple[int, int] | None = None,
) -> Joint:
    """Image (3, H, W) uint8 and truth (H, W) to float32 (3, H', W'), normalised, and the truth.

    In this order:

    Args:
        truth: what the truth is; outside its `crop` it is unknown.
        short_side: resize image and truth so that the shorter side is this.
        crop: (H, W) to cut from the middle of both, at most their size.
        bottom: (H, W) to cut from the middle of the bottom of both.
        resize: (H, W) of the image only; predictions are resized to the truth.
    """
    steps: list[Any] = []
    if isinstance(truth, Depth) and truth.crop:
        steps.append(LookInside(truth.crop))
    if short_side is not None:
        steps.append(v2.Resize(short_side, antialias=True))
    if crop is not None:
        steps.append(CutMiddle(crop))
    if bottom is not None:
        steps.append(CutBottom(bottom))
    if resize is not None:
        steps.append(ImageOnly(v2.Resize(list(resize), antialias=True)))
    return v2.Compose([*steps, *_normalised()])


def _normalised() -> list[Any]:
    return [
        v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
        v2.Normalize(MEAN, STD),
        v2.ToPureTensor(),
    ]


def _nothing(truth: Labels | Depth) -> int:
    return 0 if isinstance(truth, Depth) else IGNORE


class RandomScale(v2.Transform):
    """Resize image and truth by a factor drawn once.

    Args:
        long_side: what the longer side is resized to at a factor of 1; None for its own length.
        scale: least and largest factor.
    """

    def __init__(self, long_side: int | None, scale: tuple[float, float]) -> None:
        super().__init__()
        self.long_side = long_side
        self.scale = scale

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The size that both get."""
        height, width = flat_inputs[0].shape[-2:]
        least, largest = self.scale
        factor = least + (largest - least) * torch.rand(()).item()
        if self.long_side is not None:
            factor *= self.long_side / max(height, width)
        return {"size": [max(1, round(height * factor)), max(1, round(width * factor))]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """One of both."""
        return v2.functional.resize(inpt, params["size"], antialias=True)


class Cut(v2.Transform):
    """Rows top to bottom and columns left to right of image and truth."""

    def __init__(self, border: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.border = border

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """One of both.

        Raises:
            ConfigError: the image is smaller.
        """
        top, bottom, left, right = self.border
        if inpt.shape[-2] < bottom or inpt.shape[-1] < right:
            raise ConfigError(
                f"border {list(self.border)} (top, bottom, left, right) is not inside an image of "
                f"{inpt.shape[-1]}x{inpt.shape[-2]}."
            )
        return v2.functional.crop(inpt, top, left, bottom - top, right - left)


class CutMiddle(v2.Transform):
    """(H, W) from the middle of image and truth, at most their size: a padded border would get a class."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """One of both."""
        height, width = (min(a, b) for a, b in zip(self.size, inpt.shape[-2:], strict=True))
        top, left = (inpt.shape[-2] - height) // 2, (inpt.shape[-1] - width) // 2
        return v2.functional.crop(inpt, top, left, height, width)


class CutBottom(v2.Transform):
    """(H, W) from the middle of the bottom of image and truth; KITTI's benchmark crop is 352x1216."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """One of both.

        Raises:
            ConfigError: the image is smaller.
        """
        height, width = self.size
        top, left = inpt.shape[-2] - height, (inpt.shape[-1] - width) // 2
        if top < 0 or left < 0:
            raise ConfigError(
                f"bottom {height}x{width} is larger than an image of {inpt.shape[-2]}x{inpt.shape[-1]}."
            )
        return v2.functional.crop(inpt, top, left, height, width)


class ImageOnly(v2.Transform):
    """A transform for the image that leaves the truth as it is."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """One of both."""
        return self.inner(inpt) if isinstance(inpt, tv_tensors.Image) else inpt


class LookInside(v2.Transform):
    """A depth that is unknown outside of (top, bottom, left, right), fractions of the image."""

    def __init__(self, crop: tuple[float, ...]) -> None:
        super().__init__()
        self.crop = crop

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """One of both; the image stays."""
        if not isinstance(inpt, tv_tensors.Mask):
            return inpt
        height, width = inpt.shape[-2:]
        # as the published evaluation code does: rounded down
        top, bottom = (int(f * height) for f in self.crop[:2])
        left, right = (int(f * width) for f in self.crop[2:])
        inside = torch.zeros_like(inpt)
        inside[..., top:bottom, left:right] = inpt[..., top:bottom, left:right]
        return tv_tensors.Mask(inside)


class BTSColour(v2.Transform):
    """Gamma, brightness and channels, with probability 1/2 (BTS, arXiv 1907.10326, its published code)."""

    def __init__(self, brightness: float) -> None:
        super().__init__()
        self.brightness = brightness

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Whether, and by what factors."""
        u = torch.rand(6)
        return {
            "on": bool(u[0] < 0.5),
            "gamma": (0.9 + 0.2 * u[1]).item(),
            "factor": (1.0 + self.brightness * (2.0 * u[2] - 1.0)) * (0.9 + 0.2 * u[3:]).view(3, 1, 1),
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """One of both; the truth stays."""
        if not isinstance(inpt, tv_tensors.Image) or not params["on"]:
            return inpt
        changed = (inpt.as_subclass(torch.Tensor).float() / 255.0) ** params["gamma"] * params["factor"]
        return tv_tensors.Image((changed.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8))
