"""The gradient that reaches each latent weight, and the layers that none reaches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from binarize.errors import ConfigError
from binarize.graph.model_copy import copied
from binarize.inspect.applicable import needs_latent_weights
from binarize.inspect.running import Report, images_of
from binarize.layers import BinaryLayer


@dataclass(frozen=True, kw_only=True)
class Gradients:
    """Gradients of the latent weights of one network.

    Attributes:
        layers: paths of the binary layers, in the order of definition.
        norm: (layers,) float64: root of the mean over batches of the squared L2 norm of the gradient; NaN for
            a frozen layer.
        relative: (layers,) float64: `norm` over the L2 norm of the latent weights.
        without: (layers,) float64: share of the weights whose gradient was 0 in every batch.
        dead_filters: (layers,) int64: output filters none of whose weights got a gradient.
        batches: how many there were.
    """

    layers: tuple[str, ...]
    norm: np.ndarray
    relative: np.ndarray
    without: np.ndarray
    dead_filters: np.ndarray
    batches: int

    @property
    def dead(self) -> tuple[str, ...]:
        """Layers that no gradient reached."""
        return tuple(name for name, share in zip(self.layers, self.without, strict=True) if share == 1)


def gradients(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    loss: Callable[[nn.Module, Any], Tensor],
    *,
    report: Report | None = None,
) -> Gradients:
    """The gradients of a loss for the latent weights, in training mode, on a copy of the network.

    Args:
        model: converted; not packed.
        batches: images (N, 3, H, W) and truths, as `loss` takes them.
        loss: from the network and a batch to one number; runs the network itself.
        report: called with the number of images done.

    Raises:
        ConfigError: a packed or a float network, or no images.
    """
    needs_latent_weights(model, "gradients")
    net = copied(model).train()
    layers = {name: m for name, m in net.named_modules() if isinstance(m, BinaryLayer)}
    squares = dict.fromkeys(layers, 0.0)
    reached = {name: torch.zeros_like(m.weight, dtype=torch.bool) for name, m in layers.items()}
    count = done = 0
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)  # of dropout
        for batch in batches:
            net.zero_grad(set_to_none=True)
            loss(net, batch).backward()
            for name, layer in layers.items():
                if layer.weight.grad is not None:
                    squares[name] += float(layer.weight.grad.double().square().sum())
                    reached[name] |= layer.weight.grad != 0
            count, done = count + 1, done + len(images_of(batch))
            if report is not None:
                report(done)
    if not count:
        raise ConfigError("gradients: no images were given; expected batches of images and truths.")
    norm = np.array(
        [np.sqrt(s / count) if layers[n].weight.requires_grad else np.nan for n, s in squares.items()]
    )
    size = np.array([float(m.weight.detach().double().norm()) for m in layers.values()])
    return Gradients(
        layers=tuple(layers),
        norm=norm,
        relative=norm / np.maximum(size, np.finfo(np.float64).tiny),
        without=np.array([1.0 - seen.double().mean().item() for seen in reached.values()]),
        dead_filters=np.array(
            [_dead_filters(layers[n], seen) for n, seen in reached.items()], dtype=np.int64
        ),
        batches=count,
    )


def _dead_filters(layer: Any, seen: Tensor) -> int:
    filters = seen.movedim(1, 0) if isinstance(layer, nn.ConvTranspose2d) else seen
    return int(filters.flatten(1).any(1).logical_not().sum())
