"""Predictions as pictures: masks with a palette, depth in 16 bits and in colours, over and beside images."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from binarize.data.dataset import Depth, Labels
from binarize.data.transforms import MEAN, STD
from binarize.data.voc2012 import palette
from binarize.errors import DataError
from binarize.recipes.schema import Evaluation
from binarize.training.evaluate import predict, resized

_MILLIMETRES = 1000.0
_MIX = 0.6  # share of the colours in an overlay
_GAP = 4  # pixels between the parts of a panel


def predict_image(
    model: torch.nn.Module, image: Tensor, settings: Evaluation, truth: Labels | Depth
) -> Tensor:
    """Class ids (H, W) int64 or metres (H, W) float32 for an image of any size, at that size.

    Args:
        model: in evaluation mode.
        image: (3, H, W) uint8.
        settings: how the recipe resizes images, and whether it averages; its crops are not for predictions.
        truth: what the network was trained to tell.
    """
    x = image
    if settings.short_side is not None:
        x = v2.functional.resize(x, [settings.short_side], antialias=True)
    if settings.resize is not None:
        x = v2.functional.resize(x, list(settings.resize), antialias=True)
    x = v2.functional.normalize(v2.functional.to_dtype(x, torch.float32, scale=True), list(MEAN), list(STD))
    device = next(model.parameters()).device
    with torch.no_grad():
        output = predict(model, x[None].to(device), flip=settings.flip, scales=settings.scales)
        output = resized(output, image.shape[-2:])[0].cpu()
    if isinstance(truth, Depth):
        return output[0].clamp(truth.least, truth.most)
    scores = output[: len(truth.names)].clone()
    scores[list(truth.unscored)] = -torch.inf  # what no truth uses is no answer
    return scores.argmax(0)


def as_png(prediction: Tensor, truth: Labels | Depth) -> bytes:
    """A file that `data.reading` reads back: ids with a palette, or 16 bits of `1000` units per metre."""
    if isinstance(truth, Depth):
        units = (prediction.double() * _MILLIMETRES).round().clamp(0, 65535).numpy().astype(np.uint16)
        return _png(Image.fromarray(units))
    if len(truth.names) > 256:
        raise DataError(f"{len(truth.names)} classes do not fit into a mask of 8 bits.")
    mask = Image.fromarray(prediction.numpy().astype(np.uint8), mode="P")
    mask.putpalette([value for colour in _colours(truth) for value in colour])
    return _png(mask)


def coloured(prediction: Tensor, truth: Labels | Depth) -> Tensor:
    """(H, W) as (3, H, W) uint8: the classes' colours; depth from near (bright) to far (dark)."""
    if isinstance(truth, Depth):
        from matplotlib import colormaps

        share = 1.0 - (prediction / truth.most).clamp(0.0, 1.0).numpy()
        array = (colormaps["magma"](share)[..., :3] * 255).round().astype(np.uint8)
        return torch.from_numpy(array).permute(2, 0, 1)
    table = torch.tensor([*_colours(truth)], dtype=torch.uint8)
    return table[prediction.clamp(0, len(table) - 1)].permute(2, 0, 1)


def overlay(image: Tensor, colours: Tensor) -> Tensor:
    """Colours laid over an image, both (3, H, W) uint8."""
    return ((1.0 - _MIX) * image.float() + _MIX * colours.float()).round().to(torch.uint8)


def panel(parts: list[Tensor]) -> Tensor:
    """Pictures (3, H, W) uint8 of one height, side by side."""
    padded = [
        F.pad(part, (0, _GAP if index < len(parts) - 1 else 0), value=255) for index, part in enumerate(parts)
    ]
    return torch.cat(padded, dim=2)


def picture(colours: Tensor) -> bytes:
    """(3, H, W) uint8 as a PNG."""
    return _png(Image.fromarray(colours.permute(1, 2, 0).contiguous().numpy()))


def _colours(truth: Labels) -> tuple[tuple[int, int, int], ...]:
    return truth.palette or palette(len(truth.names))


def _png(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, format="PNG")
    return data.getvalue()
