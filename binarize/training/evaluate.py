"""Predictions for a whole data set, and how good they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binarize.data.dataset import DenseDataset, Sample
from binarize.errors import ConfigError
from binarize.training.metrics import create_metric

SMALL = 64
"""An image with a shorter side may be smaller than a kernel, somewhere deep in a network."""


def evaluate(
    model: nn.Module,
    data: DenseDataset,
    *,
    device: torch.device | None = None,
    batch: int = 1,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
    rank: int = 0,
    world: int = 1,
    report: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """The figures of `metrics` for a model on a data set; of many processes, each takes its part.

    Args:
        model: gives logits (N, classes, H, W) or metres (N, 1, H, W); its mode is restored.
        data: through its evaluation transform.
        device: where the model is.
        batch: images at once, as far as neighbours are of one size.
        flip: mean of the predictions for the image and its mirror image.
        scales: mean of the predictions at these sizes, times that of the image.
        rank: which process this is; it takes every `world`-th image, each image goes to one process.
        world: of how many.
        report: called with the number of images done.

    Raises:
        ConfigError: images that are smaller, at one of the scales, than the network can take.
    """
    metric = create_metric(data.truth, _outputs(model)).to(device or torch.device("cpu"))
    training = model.training
    model.eval()
    done = 0
    try:
        with torch.no_grad():
            for images, targets in _batches(data, range(rank, len(data), world), batch):
                output = predict(model, images.to(device), flip=flip, scales=scales)
                target = targets.to(device)
                metric.update(resized(output, target.shape[-2:]), target)
                done += len(images)
                if report is not None:
                    report(done)
    finally:
        model.train(training)
    return metric.compute()


def predict(
    model: nn.Module, images: Tensor, *, flip: bool = False, scales: Sequence[float] = (1.0,)
) -> Tensor:
    """The model's output for images (N, 3, H, W): logits or metres (N, C, H, W), float32.

    With flips or several scales, depths are averaged, or class probabilities, whose logarithms come back.

    Raises:
        ConfigError: images that are smaller, at one of the scales, than the network can take.
    """
    if not flip and tuple(scales) == (1.0,):
        return _output(model, images)
    total: Tensor | None = None
    for scale in scales:
        scaled = images if scale == 1.0 else resized(images, _scaled(images.shape[-2:], scale))
        for mirrored in (False, True) if flip else (False,):
            output = _output(model, scaled.flip(-1) if mirrored else scaled)
            output = resized(output.flip(-1) if mirrored else output, images.shape[-2:])
            part = output.softmax(1) if output.shape[1] > 1 else output
            total = part if total is None else total + part
    if total is None:
        raise ValueError("no scale")
    mean = total / (len(scales) * (1 + flip))
    return mean.clamp_min(torch.finfo(mean.dtype).tiny).log() if mean.shape[1] > 1 else mean


def _scaled(size: Sequence[int], scale: float) -> list[int]:
    return [max(1, int(side * scale)) for side in size]


def _output(model: nn.Module, images: Tensor) -> Tensor:
    try:
        return model(images).float()
    except RuntimeError as error:
        height, width = images.shape[-2:]
        if isinstance(error, torch.OutOfMemoryError) or min(height, width) >= SMALL:
            raise
        raise ConfigError(
            f"the network cannot take an image of {width}x{height} (width x height, after all resizing): "
            f"{str(error).splitlines()[0].rstrip('.')}. Take larger images or scales, or let the recipe "
            "resize them (data.evaluation.short_side)."
        ) from error


def resized(output: Tensor, size: Sequence[int]) -> Tensor:
    """(N, C, H, W) bilinearly at another size."""
    if tuple(output.shape[-2:]) == tuple(size):
        return output
    return F.interpolate(output, size=tuple(size), mode="bilinear", align_corners=False)


def _batches(data: DenseDataset, indices: range, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
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
    """How many classes a network tells, if it says so."""
    spec = getattr(model, "binarize_spec", None) or {}
    found = (spec.get("kwargs") or {}).get("num_classes")
    return int(found) if found else None
