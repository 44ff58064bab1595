"""Predictions for a whole data set, and how good they are."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binarize.data.dataset import Truth
from binarize.data.own_samples import IMAGENET, samples
from binarize.data.samples import Sample, SampleDataset
from binarize.errors import ConfigError, warn
from binarize.model_info import first_nan
from binarize.modes import evaluating
from binarize.preprocessing import preprocessing_of
from binarize.training.outputs import selected
from binarize.training.sizes import REFUSALS, first_line, working_sizes
from binarize.training.tasks import task_of

SMALL = 64
"""An image with a shorter side may be smaller than a kernel, somewhere deep in a network."""


def evaluate(
    model: nn.Module,
    data: Any,
    *,
    truth: Truth | None = None,
    output: str | int | None = None,
    device: torch.device | None = None,
    batch: int = 1,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
    rank: int = 0,
    world: int = 1,
    report: Callable[[int], None] | None = None,
    where: str = "the data set",
) -> dict[str, Any]:
    """The figures of `metrics` for a model on a data set; each of several processes evaluates a part.

    Args:
        model: gives logits (N, classes, H, W) or (N, classes), or metres (N, 1, H, W); its mode is restored.
        data: a data set of the toolkit, through its evaluation transform; or pairs (image, target) by index,
            such as a torch Dataset: images of 8 bits, or floats as the model takes them, and arrays or
            tensors of class ids or metres (`data.own_samples.OwnSamples`).
        truth: what the targets of such pairs mean: `binarize.data.Labels`, `Depth` or `Classes`.
        output: which of the model's outputs to take (a recipe's `network.output`).
        device: where the model is; by default that of its first parameter or buffer.
        batch: images at once, as far as neighbours are of one size.
        flip: mean of the predictions for the image and its mirror image.
        scales: mean of the predictions at these sizes, times that of the image.
        rank: which process this is; it takes every `world`-th image, each image goes to one process.
        world: of how many.
        report: called with the number of images done.
        where: what to call the data in messages.

    Raises:
        ConfigError: images of a size, at one of the scales, that the network cannot take.
        DataError: a file is wrong, or not one pixel has a truth.
    """
    device = device or device_of(model)
    data = samples(data, truth, images=preprocessing_of(model) or IMAGENET)
    task = task_of(data.truth)
    metric = task.metric(_outputs(model)).to(device)
    done = 0
    with evaluating(model), torch.no_grad():
        for images, targets in _batches(data, range(rank, len(data), world), batch):
            maps = predict(model, images.to(device), output=output, flip=flip, scales=scales)
            target = targets.to(device)
            metric.update(resized(maps, target.shape[-2:]), target)
            done += len(images)
            if report is not None:
                report(done)
    figures = metric.compute()
    if not figures.get("pixels", figures.get("images")):
        raise task.nothing(data, where)
    return figures


def device_of(model: nn.Module) -> torch.device:
    """Where a model's tensors are; a packed network has no parameters."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def predict(
    model: nn.Module,
    images: Tensor,
    *,
    output: str | int | None = None,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
) -> Tensor:
    """The model's output for images: logits or metres (N, C, H, W), or logits (N, C), float32.

    Args:
        model: in evaluation mode.
        images: (N, 3, H, W), normalized.
        output: which one to take, if there are several (a recipe's `network.output`).
        flip: also predict the mirror images. With flips or several scales, depths are averaged, or class
            probabilities, whose logarithms come back.
        scales: sizes to predict, times that of the images.

    Raises:
        ConfigError: images of a size, at one of the scales, that the network cannot take.
    """
    if not flip and tuple(scales) == (1.0,):
        return _output(model, images, output)
    total: Tensor | None = None
    for scale in scales:
        scaled = images if scale == 1.0 else resized(images, _scaled(images.shape[-2:], scale))
        for mirrored in (False, True) if flip else (False,):
            maps = _output(model, scaled.flip(-1) if mirrored else scaled, output)
            maps = resized(maps.flip(-1) if mirrored and maps.dim() == 4 else maps, images.shape[-2:])
            part = maps.softmax(1) if maps.shape[1] > 1 else maps
            total = part if total is None else total + part
    if total is None:
        raise ValueError("no scale")
    mean = total / (len(scales) * (1 + flip))
    return mean.clamp_min(torch.finfo(mean.dtype).tiny).log() if mean.shape[1] > 1 else mean


def _scaled(size: Sequence[int], scale: float) -> list[int]:
    return [max(1, int(side * scale)) for side in size]


def _output(model: nn.Module, images: Tensor, chosen: str | int | None) -> Tensor:
    try:
        output = model(images)
    except REFUSALS as error:
        height, width = images.shape[-2:]
        if isinstance(error, torch.OutOfMemoryError):
            raise
        near = working_sizes(model, (height, width))
        if not near and min(height, width) >= SMALL:  # it is not the size
            raise
        works = f" It takes {' and '.join(f'{w}x{h}' for h, w in near)}." if near else ""
        other = "other" if any(h * w < height * width for h, w in near) else "larger"
        raise ConfigError(
            f"the network cannot take an image of {width}x{height} (width x height, after all resizing): "
            f"{first_line(error)}.{works} Take {other} images or scales, or let the recipe resize them "
            "(data.evaluation.resize or short_side)."
        ) from error
    found = selected(output, chosen).float()
    if found.isnan().any():
        name = first_nan(model)
        why = f"So does its {name}." if name else "Its weights do not: do the images?"
        warn(f"the network's output holds NaN, its predictions and figures mean nothing. {why}")
    return found


def resized(output: Tensor, size: Sequence[int]) -> Tensor:
    """Maps at another size, bilinearly; logits of whole images stay.

    Args:
        output: (N, C, H, W), or (N, C).
        size: height and width.
    """
    if output.dim() == 2 or tuple(output.shape[-2:]) == tuple(size):
        return output
    return F.interpolate(output, size=tuple(size), mode="bilinear", align_corners=False)


def _batches(data: SampleDataset, indices: range, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    pending: list[Sample] = []
    for index in indices:
        sample = data[index]
        fits = not pending or all(a.shape == b.shape for a, b in zip(sample, pending[0], strict=True))
        if pending and (len(pending) == batch or not fits):
            yield _stacked(pending)
            pending = []
        pending.append(sample)
    if pending:
        yield _stacked(pending)


def _stacked(samples: list[Sample]) -> tuple[Tensor, Tensor]:
    return torch.stack([s.image for s in samples]), torch.stack([s.target for s in samples])


def _outputs(model: nn.Module) -> int | None:
    """The number of classes that a network was built for, if it is known."""
    spec = getattr(model, "binarize_spec", None) or {}
    found = (spec.get("kwargs") or {}).get("num_classes")
    return int(found) if found else None
