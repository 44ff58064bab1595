"""Images of a report: small enough for a page that is sent around."""

from __future__ import annotations

import io

from PIL import Image
from torch import Tensor
from torch.nn import functional as F

WIDTH = 560
"""Pixels of the pictures, at most."""
_QUALITY = 82


def reduced(picture: Tensor, *, smooth: bool) -> Tensor:
    """(3, H, W) uint8, no wider than `WIDTH`; colours of classes are never mixed."""
    _, height, width = picture.shape
    if width <= WIDTH:
        return picture
    size = (max(1, round(height * WIDTH / width)), WIDTH)
    if not smooth:
        return F.interpolate(picture[None], size=size, mode="nearest-exact")[0]
    return F.interpolate(picture[None], size=size, mode="bilinear", antialias=True)[0]


def encoded(picture: Tensor, form: str) -> bytes:
    """(3, H, W) uint8 as a file: `png` or `jpeg`."""
    image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    data = io.BytesIO()
    if form == "png":
        image.save(data, format="PNG", optimize=True)
    else:
        image.save(data, format="JPEG", quality=_QUALITY, optimize=True)
    return data.getvalue()


def short_name(name: str) -> str:
    """The last part of a path, whatever separates its parts."""
    return name.replace("\\", "/").rpartition("/")[2]
