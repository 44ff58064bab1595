"""A network of another library: how it is built, what it takes, and which layers are its last ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Given = tuple[Any, ...] | dict[str, Any]
"""What a forward takes: positional or keyword inputs."""

Feed = Callable[[Tensor, bool], Given]
"""Makes the inputs of a forward from images (N, C, H, W) and whether the network is in training mode."""


def image(images: Tensor, training: bool) -> Given:
    """The images themselves."""
    return (images,)


@dataclass(frozen=True, kw_only=True)
class Network:
    """One network with random weights; nothing is downloaded.

    Attributes:
        name: in the catalogue.
        task: what it predicts: `segmentation`, `depth`, `detection`...
        build: makes it, small where its library has options for width and depth.
        heads: globs of the layers that give its outputs, from its source: an output depends on them through
            operations without weights only. The plan must keep each in float.
        beside: globs of layers that may count as final too: factors of an output, layers of a first estimate.
        idle: globs of layers that have no gradient in the float network: no output depends on them, or the
            network froze them.
        sizes: (H, W) that it takes: the smallest first, then another if there is one.
        channels: of the images that `feed` takes.
        feed: see `Feed`.
        first: path in the output to what belongs to the first image; empty where every tensor of the output
            has the images as its first dimension.
        only: names of the outputs whose first dimension the images are; empty for all of them.
        counted: the outputs' sizes are numbers of objects found, which depend on the weights.
    """

    name: str
    task: str
    build: Callable[[], nn.Module]
    heads: tuple[str, ...]
    beside: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ((64, 64), (64, 96))
    channels: int = 3
    feed: Feed = image
    first: tuple[int, ...] = ()
    only: tuple[str, ...] = ()
    counted: bool = False

    def example(self, size: tuple[int, int] | None = None) -> Given:
        """Inputs of the forward in evaluation mode: two images, drawn with a seed of their own."""
        height, width = size or self.sizes[0]
        generator = torch.Generator().manual_seed(0)
        return self.feed(torch.randn(2, self.channels, height, width, generator=generator), False)
