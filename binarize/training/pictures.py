"""Predictions as pictures: masks with a palette, depth in 16 bits and in colours, over and beside images."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from binarize.data.dataset import Depth, Labels
from binarize.data.labels import stored_mask
from binarize.data.transforms import MEAN, STD
from binarize.data.voc2012 import palette
from binarize.errors import ConfigError, DataError, warn
from binarize.preprocessing import Preprocessing, preprocessing_of
from binarize.recipes.schema import Evaluation
from binarize.training.evaluation import SMALL, device_of, predict, resized
from binarize.training.sizes import takes, working_sizes

_MILLIMETRES = 1000.0
_MIX = 0.6  # share of the colours in an overlay
_GAP = 4  # pixels between the parts of a panel
_TEXT = 12  # least height of its letters
_LINES = 2.4  # times their size that two numbers, one above the other, need
_LETTERS = (20, 32)  # parts of the height, and of the width, that they take: a panel is often seen reduced
_UNKNOWN = 128  # grey of pixels without a depth
_NAMED = 24  # classes in the key of a panel, at most

Class = tuple[str, tuple[int, int, int] | None]
"""Name and (R, G, B)."""


def predict_image(
    model: torch.nn.Module,
    image: Tensor,
    settings: Evaluation,
    truth: Labels | Depth,
    chosen: str | int | None = None,
) -> Tensor:
    """Class ids (H, W) int64 or metres (H, W) float32 for an image of any size, at that size.

    Args:
        model: in evaluation mode.
        image: (3, H, W) uint8.
        settings: how the recipe resizes images, and whether it averages; its crops are not for predictions.
            Images of a size that the network does not take are enlarged to 64 pixels, or resized to the
            nearest size that it takes.
        truth: of the data set that the network was trained on.
        chosen: which of the network's outputs to take (a recipe's `network.output`).
    """
    shown = prepared(image, settings, preprocessing_of(model))
    output = map_output(model, shown, settings, chosen, image.shape[-2:])
    return depth_of(output, truth) if isinstance(truth, Depth) else scores_of(output, truth).argmax(0)


def map_output(
    model: torch.nn.Module,
    shown: Tensor,
    settings: Evaluation,
    chosen: str | int | None,
    size: Sequence[int],
) -> Tensor:
    """A network's output (C, H, W) for an image, on the CPU.

    Args:
        model: in evaluation mode.
        shown: (1, 3, H', W') float32, as of `prepared`; of a size that the network does not take it is
            resized, with a warning.
        settings: of the recipe.
        chosen: which of the network's outputs to take.
        size: (H, W) of the result.
    """
    how: dict[str, Any] = {"output": chosen, "flip": settings.flip, "scales": settings.scales}
    shown = shown.to(device_of(model))
    with torch.no_grad():
        try:
            output = predict(model, shown, **how)
        except ConfigError as error:
            shown = _fitting(model, shown, error)
            output = predict(model, shown, **how)
        return resized(output, size)[0].cpu()


def depth_of(output: Tensor, truth: Depth) -> Tensor:
    """Metres (H, W) of an output (1, H, W), in the range of the truth."""
    return output[0].clamp(truth.least, truth.most)


def scores_of(output: Tensor, truth: Labels) -> Tensor:
    """Logits (classes, H, W) of an output; a class that no truth uses is never predicted."""
    scores = output[: len(truth.names)].clone()
    scores[list(truth.unscored)] = -torch.inf
    return scores


def _fitting(model: torch.nn.Module, shown: Tensor, error: ConfigError) -> Tensor:
    """An image (1, 3, H, W), which the network refused with `error`, at a size that it takes."""
    height, width = shown.shape[-2:]
    if min(height, width) < SMALL:
        larger = resized(shown, [max(side, SMALL) for side in (height, width)])
        if takes(model, (larger.shape[-2], larger.shape[-1])):
            return larger
    near = working_sizes(model, (height, width))
    if not near:
        raise error
    warn(
        f"the network does not take every size: an image of {width}x{height} (width x height) is resized to "
        f"{near[-1][1]}x{near[-1][0]}, its prediction back."
    )
    return resized(shown, near[-1])


def prepared(image: Tensor, settings: Evaluation, images: Preprocessing | None = None) -> Tensor:
    """An image (3, H, W) uint8 as the network takes it: (1, 3, H', W') float32.

    Args:
        image: of any size.
        settings: how the recipe resizes; its crops are not for predictions.
        images: whose mean and std to take; ImageNet's if none.
    """
    x = image
    mean, std = (MEAN, STD) if images is None else (images.mean, images.std)
    if settings.short_side is not None:
        x = v2.functional.resize(x, [settings.short_side], antialias=True)
    if settings.resize is not None:
        x = v2.functional.resize(x, list(settings.resize), antialias=True)
    x = v2.functional.to_dtype(x, torch.float32, scale=True)
    return v2.functional.normalize(x, list(mean), list(std))[None]


def as_png(prediction: Tensor, truth: Labels | Depth) -> bytes:
    """A file like those of the data, which `truth` reads back.

    Segmentation: the value of each class in the data's masks, in 8 bits with a palette, in 16 bits where
    values are above 255, or its colour where the masks hold colours. Depth: 16 bits of 1000 units per metre.

    Raises:
        DataError: more classes than a mask holds.
    """
    if isinstance(truth, Depth):
        units = (prediction.double() * _MILLIMETRES).round().clamp(0, 65535).numpy().astype(np.uint16)
        return _png(Image.fromarray(units))
    if len(truth.names) > 256:
        raise DataError(f"{len(truth.names)} classes do not fit into a mask of 8 bits.")
    values = stored_mask(prediction, truth)
    if values.ndim == 3:
        return _png(Image.fromarray(values))
    if values.max(initial=0) > 255:
        return _png(Image.fromarray(values.astype(np.uint16)))
    mask = Image.fromarray(values.astype(np.uint8), mode="P")
    table = np.zeros((1 + max(v for v in truth.stored() if v < 256), 3), dtype=np.uint8)
    for value, colour in zip(truth.stored(), _colours(truth), strict=True):
        if value < len(table):
            table[value] = colour
    mask.putpalette(table.reshape(-1).tolist())
    return _png(mask)


def coloured(prediction: Tensor, truth: Labels | Depth, span: tuple[float, float] | None = None) -> Tensor:
    """(H, W) as (3, H, W) uint8: the classes' colours; depth from near (bright) to far (dark).

    Args:
        prediction: class ids or metres; black where there is no class, grey where there is no depth.
        truth: what they mean.
        span: metres that are brightest and darkest; by default those of `depth_span`.
    """
    if isinstance(truth, Depth):
        near, far = span if span is not None else depth_span(prediction)
        colours = _magma(1.0 - (prediction - near) / max(far - near, 1e-6))
        return torch.where(prediction > 0, colours, _UNKNOWN)
    known = (prediction >= 0) & (prediction < len(truth.names))
    table = torch.tensor([*_colours(truth), (0, 0, 0)], dtype=torch.uint8)
    return table[torch.where(known, prediction, len(truth.names))].permute(2, 0, 1)


def depth_span(*maps: Tensor) -> tuple[float, float]:
    """The metres between which nearly all depths of each map are, for colours; 0 is an unknown one."""
    ends = [np.quantile(m[m > 0].numpy(), [0.01, 0.99]) for m in maps if bool((m > 0).any())]
    return (float(min(e[0] for e in ends)), float(max(e[1] for e in ends))) if ends else (0.0, 1.0)


def overlay(image: Tensor, colours: Tensor) -> Tensor:
    """Colours laid over an image, both (3, H, W) uint8."""
    return ((1.0 - _MIX) * image.float() + _MIX * colours.float()).round().to(torch.uint8)


def classes_in(maps: Sequence[Tensor], truth: Labels) -> list[Class]:
    """Names and colours of the classes in any of the maps (H, W) of class ids; of many, the largest."""
    counts = sum(
        torch.bincount(m[(m >= 0) & (m < len(truth.names))], minlength=len(truth.names)) for m in maps
    )
    there = torch.as_tensor(counts).sort(descending=True, stable=True)
    largest = [int(i) for n, i in zip(*there, strict=True) if n > 0]
    colours = _colours(truth)
    found: list[Class] = [(truth.names[i], colours[i]) for i in sorted(largest[:_NAMED])]
    more = len(largest) - len(found)
    return [*found, (f"and {more} more", None)] if more else found


def panel(
    parts: Sequence[tuple[str, Tensor]],
    span: tuple[float, float] | None = None,
    classes: Sequence[Class] = (),
) -> Tensor:
    """Pictures (3, H, W) uint8 of one size side by side, each under its name, which is never cut.

    Args:
        parts: names and pictures.
        span: metres of the brightest and the darkest colour: a bar at the right says what colours
            mean, but for pictures that are too low for its numbers.
        classes: names and colours for a key below.
    """
    height, width = parts[0][1].shape[1:]
    size = max(_TEXT, height // _LETTERS[0], width // _LETTERS[1])
    while size > _TEXT and max(_wide(name, size) for name, _ in parts) > width:
        size -= 1
    columns = [_under(name, part, size) for name, part in parts]
    if span is not None and height >= _LINES * size:
        columns.append(_under("", _bar(height, span, size), size))
    columns = [F.pad(c, (0, _GAP if i < len(columns) - 1 else 0), value=255) for i, c in enumerate(columns)]
    made = torch.cat(columns, dim=2)
    if not classes:
        return made
    key = _key(classes, made.shape[2], size)
    return torch.cat([F.pad(made, (0, key.shape[2] - made.shape[2]), value=255), key], dim=1)


def _key(classes: Sequence[Class], width: int, size: int) -> Tensor:
    """Names beside squares of their colours, in as many lines as the width makes of them; none is cut."""
    longest = max((name for name, _ in classes), key=len)
    while size > _TEXT and size + _GAP + _wide(longest, size) > width:
        size -= 1
    wide = [size + _GAP + _wide(name, size) for name, _ in classes]
    width = max(width, *wide)
    places, x, y = [], 0, _GAP
    for space in wide:
        if x + space > width:
            x, y = 0, y + round(1.5 * size)
        places.append((x, y))
        x += space + 2 * size
    made = Image.new("RGB", (width, y + round(1.5 * size)), "white")
    draw = ImageDraw.Draw(made)
    for (name, colour), (x, y) in zip(classes, places, strict=True):
        if colour is not None:
            draw.rectangle((x, y, x + size - 1, y + size - 1), colour, "grey")
        draw.text((x + size + _GAP, y + size / 2), name, "black", _font(size), anchor="lm")
    return _tensor(made)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The letters of matplotlib's pictures: Pillow's own have no umlauts and no accents."""
    import matplotlib as mpl

    try:
        return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)
    except (OSError, ImportError):  # a system's matplotlib without its fonts, a Pillow without FreeType
        return ImageFont.load_default(size)


def _under(name: str, part: Tensor, size: int) -> Tensor:
    """A picture under a white strip with its name."""
    width = max(part.shape[2], _wide(name, size))
    head = Image.new("RGB", (width, 2 * _GAP + round(1.25 * size)), "white")
    ImageDraw.Draw(head).text((0, _GAP), name, "black", _font(size))
    return torch.cat([_tensor(head), F.pad(part, (0, width - part.shape[2]), value=255)], dim=1)


def _bar(height: int, span: tuple[float, float], size: int) -> Tensor:
    """Colours from far, at the top, to near, with two or three numbers beside them."""
    near, far = span
    colours = _magma(torch.linspace(0.0, 1.0, height)[:, None].expand(height, size))
    places = (0.0, 0.5, 1.0) if height >= 2 * _LINES * size else (0.0, 1.0)
    digits = 1 if far - near >= 1 else 2
    texts = [f"{far + place * (near - far):.{digits}f} m" for place in places]
    beside = Image.new("RGB", (_GAP + max(_wide(text, size) for text in texts), height), "white")
    draw, font = ImageDraw.Draw(beside), _font(size)
    for place, text in zip(places, texts, strict=True):
        anchor = "la" if place == 0.0 else "ld" if place == 1.0 else "lm"  # at the top, the foot, the middle
        draw.text((_GAP, place * (height - 1)), text, "black", font, anchor=anchor)
    return torch.cat([colours, _tensor(beside)], dim=2)


def _wide(text: str, size: int) -> int:
    """Pixels that a text takes in letters of that size."""
    return int(np.ceil(_font(size).getlength(text)))


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _magma(share: Tensor) -> Tensor:
    """(H, W) from 0 (dark) to 1 (bright) as (3, H, W) uint8."""
    from matplotlib import colormaps

    array = (colormaps["magma"](share.clamp(0.0, 1.0).numpy())[..., :3] * 255).round().astype(np.uint8)
    return torch.from_numpy(array).permute(2, 0, 1)


def picture(colours: Tensor) -> bytes:
    """(3, H, W) uint8 as a PNG."""
    return _png(Image.fromarray(colours.permute(1, 2, 0).contiguous().numpy()))


def _colours(truth: Labels) -> tuple[tuple[int, int, int], ...]:
    return truth.palette or palette(len(truth.names))


def _png(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, format="PNG")
    return data.getvalue()
