"""The classes of single images, of any size, as the recipe's evaluation sees them."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from binarize.data.class_transforms import evaluation_transform
from binarize.data.own_samples import normalised_floats
from binarize.data.transforms import MEAN, STD
from binarize.preprocessing import preprocessing_of
from binarize.recipes.schema import Evaluation
from binarize.training.evaluation import predict


def prepared(image: Tensor, settings: Evaluation) -> Tensor:
    """An image (3, H, W) uint8 as a classifier takes it, (1, 3, H', W') float32: resized and cropped."""
    fields = settings.model_dump(include={"resize", "short_side", "crop"})
    return evaluation_transform(**fields)(image, torch.zeros(()))[0][None]


def classify(
    model: nn.Module, image: Tensor, settings: Evaluation, chosen: str | int | None = None
) -> Tensor:
    """Probabilities of the classes (classes,) float32.

    Args:
        model: in evaluation mode; gives logits (N, classes).
        image: (3, H, W) uint8.
        settings: how the recipe resizes and crops, and whether it averages.
        chosen: which of the network's outputs to take (a recipe's `network.output`).

    Raises:
        ConfigError: the network does not take the image's size.
    """
    tensors = itertools.chain(model.parameters(), model.buffers())  # a packed network has no parameters
    shown = prepared(image, settings)
    images = preprocessing_of(model)
    if images is not None and (images.mean, images.std) != (MEAN, STD):  # of a training in Python
        mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (MEAN, STD))
        shown = normalised_floats(shown * std + mean, images)
    shown = shown.to(next(tensors).device)
    with torch.no_grad():
        logits = predict(model, shown, output=chosen, flip=settings.flip, scales=settings.scales)
    return logits[0].softmax(0).cpu()
