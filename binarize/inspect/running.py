"""Running a network on batches with hooks on some of its modules, and leaving it as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from binarize import modes
from binarize.errors import ConfigError

Batch = Tensor | tuple[Tensor, Tensor]
"""Images (N, 3, H, W), alone or with their truths."""

Report = Callable[[int], None]
"""Called with the number of images done."""


def images_of(batch: Any) -> Tensor:
    """The images of a batch."""
    return batch if isinstance(batch, Tensor) else batch[0]


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; each module's own mode is restored."""
    with modes.evaluating(model), torch.no_grad():
        yield


def run_batches(
    model: nn.Module,
    batches: Iterable[Batch],
    hooks: Callable[[Callable[[], int]], Iterable[RemovableHandle]],
    report: Report | None = None,
) -> int:
    """Run a network in evaluation mode on all batches; its mode is restored and the hooks are removed.

    Args:
        model: takes images (N, 3, H, W).
        batches: images, alone or with truths.
        hooks: registers them; gets a function that gives the number of images of the running batch.
        report: see `Report`.

    Returns:
        How many images there were.

    Raises:
        ConfigError: there were none.
    """
    size, done = 0, 0
    handles = list(hooks(lambda: size))
    device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    try:
        with evaluating(model):
            for batch in batches:
                images = images_of(batch).to(device)
                size = len(images)
                model(images)
                done += size
                if report is not None:
                    report(done)
    finally:
        for handle in handles:
            handle.remove()
    if not done:
        raise ConfigError("inspect: no images were given; expected batches of images (N, 3, H, W).")
    return done
