"""Data sets of the caller, pairs of an image and a truth in memory, as samples."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from binarize.data.classes import Classes
from binarize.data.dataset import IGNORE, Depth, Labels, Truth
from binarize.data.samples import Sample, SampleDataset
from binarize.data.transforms import MEAN, STD
from binarize.errors import ConfigError, DataError, with_article
from binarize.preprocessing import Preprocessing
from binarize.random_state import same_random_state

IMAGENET = Preprocessing(mean=MEAN, std=STD)
"""Of images of 8 bits, where nothing else is known."""


class OwnSamples(SampleDataset):
    """Pairs (image, target) by index, from any object that has a length and gives them.

    An image of 8 bits (a PIL image, an array (H, W, 3) or a tensor (3, H, W), uint8) is divided by 255, then
    mean and std are applied. A tensor of floats (C, H, W) is what the network takes, and is left as it is.
    Targets are arrays, tensors or PIL images: class ids (H, W), metres (H, W), or one class id for
    classification. Random choices of the object (torch's, NumPy's and Python's global generators) depend on
    seed, epoch and index only, so that a run that is resumed sees the same images.

    Args:
        items: the caller's data, such as a torch Dataset; left untouched.
        truth: what the targets mean.
        images: mean and std for images of 8 bits.
        seed: of random choices.
        same_size: whether all images have to be of the first one's size, as a batch needs it.
    """

    def __init__(
        self,
        items: Any,
        truth: Truth,
        *,
        images: Preprocessing,
        seed: int = 0,
        same_size: bool = False,
    ) -> None:
        if not hasattr(items, "__len__") or not hasattr(items, "__getitem__"):
            raise ConfigError(
                f"data: got {with_article(type(items).__name__)}, expected an object with a length that "
                "gives pairs (image, target) by index, such as a torch.utils.data.Dataset; not a loader, nor "
                "an IterableDataset."
            )
        if not len(items):
            raise DataError("data: there is no sample in it.")
        self.truth = truth
        self.seed = seed
        self._items = items
        self._images = images
        self._size = None
        if same_size:
            self._size = self[0].image.shape

    def __len__(self) -> int:
        return len(self._items)

    def load(self, index: int) -> Sample:
        """The sample as the network sees it, with the random choices of epoch 0."""
        return self[index]

    def target(self, index: int) -> Tensor:
        """The truth of `load`."""
        return self[index].target

    def name(self, index: int) -> str:
        """`sample 3 of the data`."""
        return f"sample {index} of the data"

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        seed = int(np.random.SeedSequence((self.seed, epoch, index)).generate_state(1)[0])
        with same_random_state():
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002 - the generator that transforms of others draw from
            item = self._items[index]
        if not isinstance(item, Sequence) or len(item) != 2:
            raise DataError(
                f"{self.name(index)}: got {with_article(type(item).__name__)}, expected a pair (image, "
                "target)."
            )
        return self._checked(Sample(self._image(item[0], index), self._target(item[1], index)), index)

    def has_floats(self) -> bool:
        """Whether images come as floats, prepared by the caller: how is not known here."""
        with same_random_state():
            image = self._items[0][0]
        return isinstance(image, Tensor) and image.is_floating_point()

    def _image(self, given: Any, index: int) -> Tensor:
        if isinstance(given, Tensor) and given.is_floating_point() and given.dim() == 3:
            return given.float()
        return normalised(pixels(given, self.name(index)), self._images)

    def _target(self, given: Any, index: int) -> Tensor:
        array = given if isinstance(given, Tensor) else torch.from_numpy(np.array(given))
        if isinstance(self.truth, Classes):
            return self._classes(array.reshape(()).long(), index)
        if array.dim() == 3 and array.shape[0] == 1:
            array = array[0]
        if array.dim() != 2:
            raise DataError(f"{self.name(index)}: a target {tuple(array.shape)}, expected (H, W).")
        if isinstance(self.truth, Depth):
            return array.float()
        if array.is_floating_point():
            raise DataError(f"{self.name(index)}: a target of floats, expected class ids, which are whole.")
        return self._classes(array.long(), index)

    def _classes(self, ids: Tensor, index: int) -> Tensor:
        """Class ids, those that are ignored as `IGNORE`."""
        if isinstance(self.truth, Labels) and self.truth.values:
            return self.truth.ids(ids, self.name(index))
        count, ignored = len(self.truth.names), ()  # type: ignore[union-attr] - a depth has none
        if isinstance(self.truth, Labels):
            ignored = (
                *self.truth.ignored,
                *(value for value, label in self.truth.mapping if label == IGNORE),
            )
            original, ids = ids, ids.clone()
            for value, label in (*((v, IGNORE) for v in ignored), *self.truth.mapping):
                ids[original == value] = label
        wrong = (ids < 0) | ((ids >= count) & ((ids != IGNORE) | (not ignored)))
        if bool(wrong.any()):
            found = sorted(set(ids[wrong].reshape(-1).tolist()))[:5]
            also = f", or {' or '.join(map(str, ignored))} where nothing is to be learned" if ignored else ""
            raise DataError(
                f"{self.name(index)}: class id {', '.join(map(str, found))}; expected 0 to {count - 1}{also}."
            )
        return ids

    def _checked(self, sample: Sample, index: int) -> Sample:
        image, target = sample.image.shape, sample.target.shape
        if len(target) == 2 and image[1:] != target:
            raise DataError(
                f"{self.name(index)}: an image of {image[2]}x{image[1]} (width x height), its target is of "
                f"{target[1]}x{target[0]}."
            )
        if self._size is not None and image != self._size:
            raise DataError(
                f"{self.name(index)}: an image {tuple(image)}, the first one is {tuple(self._size)}; in "
                "training all have to be of one size: let the data set crop or resize them."
            )
        return sample


def pixels(given: Any, name: str) -> Tensor:
    """An image of 8 bits as a tensor (3, H, W) uint8.

    Args:
        given: a PIL image, an array (H, W, 3) or (H, W) or a tensor (3, H, W), uint8.
        name: of the image in messages.

    Raises:
        DataError: it is something else.
    """
    if isinstance(given, Image.Image):
        given = np.asarray(given.convert("RGB"))
    if isinstance(given, np.ndarray) and given.dtype == np.uint8:
        if given.ndim == 2:
            given = np.repeat(given[:, :, None], 3, axis=2)
        if given.ndim == 3 and given.shape[2] == 3:
            return torch.from_numpy(np.array(given)).permute(2, 0, 1)
    elif (
        isinstance(given, Tensor) and given.dtype == torch.uint8 and given.dim() == 3 and given.shape[0] == 3
    ):
        return given
    shape = f" {given.dtype} {tuple(given.shape)}" if isinstance(given, (np.ndarray, Tensor)) else ""
    raise DataError(
        f"{name}: got {with_article(type(given).__name__)}{shape}, expected a PIL image, an array (H, W, 3) "
        "or a tensor (3, H, W) of uint8, or a tensor (C, H, W) of floats, prepared as the network takes it."
    )


def normalised(image: Tensor, images: Preprocessing) -> Tensor:
    """An image (3, H, W) uint8 as floats: divided by 255, minus mean, divided by std."""
    return normalised_floats(image.float() / 255, images)


def normalised_floats(image: Tensor, images: Preprocessing) -> Tensor:
    """An image (..., 3, H, W) in [0, 1], minus mean, divided by std."""
    mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (images.mean, images.std))
    return (image - mean) / std


def samples(
    data: Any,
    truth: Truth | None,
    *,
    images: Preprocessing,
    seed: int = 0,
    same_size: bool = False,
    what: str = "data",
) -> SampleDataset:
    """A data set of the toolkit as it is, or one of the caller as samples.

    Args:
        data: a `SampleDataset` with a transform, or as of `OwnSamples`.
        truth: what its targets mean; None for one that says it itself, by an attribute `truth`.
        images: as of `OwnSamples`.
        seed: likewise.
        same_size: likewise.
        what: name of the argument in messages.

    Raises:
        ConfigError: nothing says what the targets mean, or the data gives no samples by index.
        DataError: it is empty, or its first sample is not a pair.
    """
    own = truth if truth is not None else getattr(data, "truth", None)
    prepared = isinstance(data, SampleDataset) and len(data) > 0
    if prepared and (data.transform is not None or data[0].image.is_floating_point()):
        return data
    if not isinstance(own, (Labels, Depth, Classes)):
        raise ConfigError(
            f"{what}: nothing says what its targets mean. Give truth=binarize.data.Labels(names=...) for "
            "class ids (H, W), Depth(scale=1, most=...) for metres (H, W), or Classes(names=...) for one "
            "class of each image."
        )
    return OwnSamples(data, own, images=images, seed=seed, same_size=same_size)
