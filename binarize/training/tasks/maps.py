"""What segmentation and depth share: an output for every pixel."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from binarize.data.dataset import DenseDataset, Depth, Labels
from binarize.data.findings import Finding
from binarize.data.overlap import shared_images
from binarize.data.padding import padded
from binarize.data.samples import Transform
from binarize.data.survey import inspect, nothing
from binarize.data.transforms import evaluation_transform, training_transform
from binarize.errors import ConfigError
from binarize.recipes.schema import Augmentation, Evaluation
from binarize.training.tally import Tally
from binarize.training.tasks.base import Task

COARSEST = 32
"""Pixels of the image for one of the output, per side, as in FCN-32s."""

_AUGMENTATION = {"size", "resize", "border", "bottom", "long_side", "scale", "rotate", "flip", "colour"}
_EVALUATION = {"resize", "short_side", "crop", "bottom"}


class MapTask(Task):
    """A task whose truth is (H, W) and whose output is (N, C, H, W), at any resolution.

    Args:
        truth: of the data set.
    """

    settings = frozenset(_AUGMENTATION | _EVALUATION)

    def __init__(self, truth: Labels | Depth) -> None:
        self._truth = truth

    @property
    @abstractmethod
    def expected(self) -> str:
        """The output that is expected, for messages."""

    def check(self, output: Tensor, size: tuple[int, int] | None) -> None:
        """Refuse what is not (N, C, H, W), or too coarse."""
        if output.dim() != 4:
            whole = (
                " It looks like a classifier of whole images; a network for pixels on the same encoder is, "
                "for instance, 'upernet:resnet18'."
            )
            raise ConfigError(
                f"the network gives a tensor {tuple(output.shape)}, expected {self.expected}: let its "
                f"forward return that alone.{whole if output.dim() == 2 else ''}"
            )
        self.check_channels(output.shape[1])
        maps = output.shape[-2:]
        if size is not None and any(side > COARSEST * out for side, out in zip(size, maps, strict=True)):
            got = "x".join(map(str, maps))
            raise ConfigError(
                f"the network gives maps of {got} for images of {size[0]}x{size[1]} (H x W), less than one "
                f"value for {COARSEST} pixels: let it resize its output to the size of its input."
            )

    @abstractmethod
    def check_channels(self, channels: int) -> None:
        """Refuse an output with too few channels, or others than the task has.

        Raises:
            ConfigError: they are not as expected.
        """

    def resolution(self, output: Tensor, size: tuple[int, int]) -> tuple[int, int]:
        """That of the maps."""
        return output.shape[-2], output.shape[-1]

    def training_transform(self, settings: Augmentation) -> Transform:
        """`data.transforms.training_transform`."""
        return training_transform(self._truth, **settings.model_dump(include=_AUGMENTATION))

    def evaluation_transform(self, settings: Evaluation) -> Transform:
        """`data.transforms.evaluation_transform`."""
        return evaluation_transform(self._truth, **settings.model_dump(include=_EVALUATION))

    def inspect(self, data: DenseDataset, where: str) -> set[str]:
        """By a sample of the files: `data.survey.inspect`."""
        return inspect(data, where)

    def doubts(
        self, data: DenseDataset, val: DenseDataset | None, names: tuple[str, str], augmentation: Augmentation
    ) -> list[Finding]:
        """Crops larger than all images, and images in both splits."""
        found = [padded(data, names[0], augmentation.model_dump())]
        if val is not None:
            found.append(shared_images(data, val, names))
        return [one for one in found if one is not None]

    def tally(self, data: DenseDataset, where: str, known: set[str]) -> Tally | None:
        """Of all pixels, after augmentation."""
        return Tally(data, where, known)

    def nothing(self, data: DenseDataset, where: str) -> Exception:
        """Not one pixel had a truth."""
        return nothing(data, where, "data.evaluation")


def truths(train: DenseDataset, tell: Callable[[int], None]) -> Any:
    """The truths (H, W) of a data set, all at the size of the first one (nearest)."""
    size: torch.Size | None = None
    for index in range(len(train)):
        target = train[index].target
        size = target.shape if size is None else size
        if target.shape != size:
            resized = F.interpolate(target[None, None].double(), size=tuple(size), mode="nearest")
            target = resized[0, 0].to(target.dtype)
        yield target
        tell(index + 1)
