"""Images, label masks and depth maps from files; what cannot be read names itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from binarize.errors import DataError

_WIDE = ("I;16", "I;16B", "I;16L", "I;16N", "I")  # modes of more than 8 bits per pixel


def read_image(path: Path) -> Tensor:
    """An RGB image (3, H, W) uint8, upright (EXIF), from a file of any mode.

    Grey becomes three equal channels, an alpha channel is laid over white, 16 bits become 8.

    Raises:
        DataError: the file is missing, no image, or one of floating-point numbers, whose range nothing tells.
    """
    with _opened(path) as image:
        if image.mode == "F":
            raise DataError(f"{path}: holds floating-point numbers; an image has 8 or 16 bits per channel.")
        upright = ImageOps.exif_transpose(image)
        if upright.mode in _WIDE:
            values = np.asarray(upright, dtype=np.int64)
            grey = (values >> 8 if values.max(initial=0) > 255 else values).clip(0, 255).astype(np.uint8)
            upright = Image.fromarray(grey)
        if upright.has_transparency_data:
            upright = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
        array = np.asarray(upright.convert("RGB"))
    return torch.from_numpy(array.copy()).permute(2, 0, 1)


def read_labels(path: Path) -> Tensor:
    """Class ids (H, W) int64 from a grey or palette image.

    Raises:
        DataError: the file is missing, no image, or one with colours instead of ids.
    """
    with _opened(path) as image:
        if image.mode not in ("L", "P", "1", *_WIDE):
            raise DataError(
                f"{path}: a label mask holds class ids in one channel (mode L or P), this one has mode "
                f"{image.mode}."
            )
        array = np.asarray(image)
    return torch.from_numpy(array.astype(np.int64))


def read_depth(path: Path, scale: float) -> Tensor:
    """Depth (H, W) float32 in metres from a 16-bit image; 0 where there is none.

    Args:
        path: of a file whose values are depth x `scale`.
        scale: units per metre: 1000 for millimetres, 256 in KITTI.

    Raises:
        DataError: the file is missing, no image, or one of 8 bits or with colours.
    """
    with _opened(path) as image:
        if image.mode not in _WIDE:
            raise DataError(f"{path}: a depth map is a 16-bit grey image, this one has mode {image.mode}.")
        array = np.asarray(image)
    return torch.from_numpy(array.astype(np.float32) / np.float32(scale))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            image.load()
            yield image
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not a readable image ({error}).") from error
