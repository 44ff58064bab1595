"""Images, label masks and depth maps from files; an error names the file that cannot be read.

The mode of a file decides what its values mean, never the values themselves: white in a 16-bit file is 65535,
even if the picture is dark. A turned picture (EXIF) is turned upright, whether it is an image or a truth.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from binarize.errors import DataError

_WIDE = ("I;16", "I;16B", "I;16L", "I;16N", "I")  # modes of more than 8 bits per pixel
_WIDE_FORMATS = ("PNG", "PPM")  # whose mode I has 16 bits; elsewhere it has 32
_LOSSY = ("JPEG", "MPO")
_ORIENTATION = 0x0112  # EXIF


@dataclass(frozen=True, kw_only=True)
class Head:
    """What is known of a picture before it is decoded.

    Attributes:
        mode: Pillow's name of it.
        size: (width, height) when it is upright.
        orientation: of EXIF, 1 to 8; 1 is upright, and what a file without the tag has.
        white: largest value that one channel can have; 0 if it is unknown.
        stretched: (n, d), if Pillow multiplies the stored values by d / n to fill 8 or 16 bits.
        lossy: whether values change when they are stored, as in JPEG.
    """

    mode: str
    size: tuple[int, int]
    orientation: int
    white: int
    stretched: tuple[int, int] | None
    lossy: bool


def read_head(path: Path) -> Head:
    """What is known of a picture before it is decoded.

    Raises:
        DataError: the file is missing or no image.
    """
    with _opened(path) as image:
        return _head(image)


def read_image(path: Path) -> Tensor:
    """An RGB image (3, H, W) uint8, upright (EXIF), from a file of any mode.

    Grey becomes three equal channels, an image with alpha is blended over white, 12 and 16 bits are reduced
    to the highest 8.

    Raises:
        DataError: the file is missing, no image, or one of floating-point or 32-bit numbers, whose range is
            not known.
    """
    with _opened(path) as image:
        return _rgb(image, path)


def read_image_bytes(content: bytes, where: str) -> Tensor:
    """As `read_image`, from the content of a file; `where` names it in messages.

    Raises:
        DataError: as `read_image`.
    """
    with _decoding(io.BytesIO(content), where, empty=not content) as image:
        return _rgb(image, where)


def _rgb(image: Image.Image, path: Path | str) -> Tensor:
    """(3, H, W) uint8; `path` for messages."""
    head = _head(image)
    if not head.white:
        kind = "floating-point" if head.mode == "F" else "32-bit"
        raise DataError(
            f"{path}: holds {kind} numbers, and it is unknown which of them is white; an image has 8 or "
            "16 bits per channel."
        )
    upright = ImageOps.exif_transpose(image)
    if upright.mode in _WIDE:
        values = np.asarray(upright, dtype=np.int64).clip(0, head.white)
        upright = Image.fromarray((values >> (head.white.bit_length() - 8)).astype(np.uint8))
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
    array = np.asarray(upright.convert("RGB"))
    return torch.from_numpy(array.copy()).permute(2, 0, 1)


def _lossy(path: Path, image: Image.Image, kept: str, between: str) -> DataError:
    return DataError(
        f"{path}: a label mask in {image.format} does not keep its {kept}: where two classes meet, {between} "
        "between them appear. Write masks as PNG, from where they were made."
    )


def read_labels(path: Path) -> Tensor:
    """The values (H, W) int64 of a grey or palette image, upright (EXIF).

    Raises:
        DataError: the file is missing, no image, one with colours instead of ids, or of a format that changes
            ids (JPEG).
    """
    with _opened(path) as image:
        head = _head(image)
        if head.lossy:
            raise _lossy(path, image, "class ids", "values")
        if image.mode not in ("L", "P", "1", *_WIDE):
            raise DataError(
                f"{path}: a label mask holds class ids in one channel (mode L or P), this one has mode "
                f"{image.mode}{_equal_channels(image)}."
            )
        return torch.from_numpy(_values(image, head).astype(np.int64))


def read_colours(path: Path) -> Tensor:
    """The colours (H, W) int64 of a mask of 8 bits, upright (EXIF): 65536 R + 256 G + B.

    Raises:
        DataError: the file is missing, no image, one of more than 8 bits, or of a format that changes colours
            (JPEG).
    """
    with _opened(path) as image:
        head = _head(image)
        if head.lossy:
            raise _lossy(path, image, "colours", "colours")
        if head.white != 255:
            raise DataError(
                f"{path}: a mask of colours has 8 bits for each of red, green and blue, this one has mode "
                f"{image.mode}."
            )
        rgb = np.asarray(ImageOps.exif_transpose(image).convert("RGB"), dtype=np.int64)
    return torch.from_numpy(rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2])


def read_palette(path: Path) -> dict[int, tuple[int, int, int]]:
    """(R, G, B) of the values of a palette image; empty for other images, and for a palette of greys.

    Raises:
        DataError: the file is missing or no image.
    """
    with _opened(path) as image:
        image.load()
        palette = image.getpalette("RGB") if image.mode == "P" else None
    if not palette:
        return {}
    colours = [(palette[i], palette[i + 1], palette[i + 2]) for i in range(0, len(palette) - 2, 3)]
    return dict(enumerate(colours)) if any(len(set(colour)) > 1 for colour in colours) else {}


def read_depth(path: Path, scale: float) -> Tensor:
    """Depth (H, W) float32 in metres from a 16-bit image or a floating-point TIFF; 0 where there is none.

    Args:
        path: of a file whose values are depth x `scale`.
        scale: units per metre: 1000 for millimetres, 256 in KITTI.

    Raises:
        DataError: as `read_depth_values`.
    """
    return torch.from_numpy(read_depth_values(path).astype(np.float32) / np.float32(scale))


def read_depth_values(path: Path) -> np.ndarray:
    """The values (H, W) of a depth file as they are stored, upright (EXIF); 0 for those that are not finite.

    Raises:
        DataError: the file is missing, no image, or one of 8 bits or with colours.
    """
    with _opened(path) as image:
        if image.mode not in (*_WIDE, "F"):
            raise DataError(
                f"{path}: a depth map is a 16-bit grey image or a floating-point TIFF, this one has mode "
                f"{image.mode}: write depth times `scale` in 16 bits."
            )
        values = _values(image, _head(image))
    return np.where(np.isfinite(values), values, 0) if values.dtype.kind == "f" else values


def read_image_values(path: Path) -> np.ndarray:
    """The values of an image's channels as they are stored, upright.

    Raises:
        DataError: the file is missing or no image.
    """
    with _opened(path) as image:
        return _values(image, _head(image))


def _values(image: Image.Image, head: Head) -> np.ndarray:
    """The stored values (H, W), upright."""
    array = np.asarray(ImageOps.exif_transpose(image))
    if head.stretched is None:
        return array
    n, d = head.stretched
    return (array.astype(np.int64) * n + d // 2) // d


_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257  # tags


def _head(image: Any) -> Head:
    """The facts on an image that is not decoded yet: decoding loses some of them."""
    stretched = _stretched(image)
    arguments = image.tile[0][3] if image.tile else None  # by index: a plain tuple in Pillow 10
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    white = 255
    if isinstance(first, str) and first.startswith("I;12"):
        white = 4095
    elif image.mode == "F" or (image.mode == "I" and image.format not in _WIDE_FORMATS):
        white = 0
    elif image.mode in _WIDE:
        white = 65535
    orientation = image.getexif().get(_ORIENTATION, 1)
    orientation = orientation if orientation in range(1, 9) else 1
    lies = orientation >= 5
    if lies and image.format == "TIFF":  # Pillow 11 gives the upright size if it is not decoded yet
        lies = image.size == (image.tag_v2[_TIFF_WIDTH], image.tag_v2[_TIFF_HEIGHT])
    return Head(
        mode=image.mode,
        size=image.size[::-1] if lies else image.size,
        orientation=orientation,
        white=white,
        stretched=stretched,
        lossy=image.format in _LOSSY,
    )


def _stretched(image: Any) -> tuple[int, int] | None:
    if not image.tile:
        return None
    codec, _, _, arguments = image.tile[0]
    if codec.startswith("ppm") and isinstance(arguments, tuple) and len(arguments) == 2:
        full = 65535 if image.mode == "I" else 255
        return None if arguments[1] == full or image.mode not in ("L", "I") else (int(arguments[1]), full)
    raw = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    match = re.fullmatch("L;([24])R?", raw) if isinstance(raw, str) else None
    return (2 ** int(match[1]) - 1, 255) if match else None


def _equal_channels(image: Image.Image) -> str:
    if image.mode not in ("RGB", "RGBA", "LA"):
        return ""
    array = np.asarray(image)
    colours = array[..., :3] if image.mode != "LA" else array[..., :1]
    if not (colours == colours[..., :1]).all():
        return ", and its pixels have colours: give data set folder the option `colours: {NAME: [R, G, B]}`"
    return ", whose channels are equal: write one of them"


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The file's picture, which is decoded on first use."""
    try:
        # not by its name: Pillow would map the file into memory and take a turned TIFF's rows for columns
        with path.open("rb") as stream, _decoding(stream, path, empty=not path.stat().st_size) as image:
            yield image
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except OSError as error:
        raise DataError(f"{path}: not a readable image ({error}).") from error


@contextmanager
def _decoding(stream: IO[bytes], where: Path | str, *, empty: bool) -> Iterator[Image.Image]:
    """The picture in a stream; errors name `where`."""
    try:
        with Image.open(stream) as image:
            yield image
    except UnidentifiedImageError:  # its text names the stream, not the file
        what = "empty" if empty else "in no format that Pillow knows"
        raise DataError(f"{where}: not a readable image (the file is {what}).") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where}: not a readable image ({error}).") from error
