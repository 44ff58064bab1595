"""Binary layers with constant activations: inputs that never change sign while a network trains."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from binarize.layers import BinaryLayer
from binarize.layers.quantizers import Quantizer
from binarize.training.distributed import all_sum
from binarize.training.dtensor import is_split

_STEPS = 4  # of an epoch that are examined, and the last one
_SAMPLES = 4  # of a batch


class InputWatch:
    """Searches a few steps of an epoch for binary layers with inputs in which no channel ever changes sign.

    The output of such a layer is the same for all images. After an input with a sign that changes, a layer
    is not examined again in that epoch. Nothing random is drawn and nothing is changed.

    Args:
        model: converted or not.
        steps: of an epoch.
        device: where processes exchange what they saw.
    """

    def __init__(self, model: nn.Module, steps: int, device: torch.device) -> None:
        self._layers = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, BinaryLayer) and isinstance(module.quantizer, Quantizer)
        }
        self._steps = {*range(0, steps, max(1, steps // _STEPS)), steps - 1}
        self._device = device
        self.restart()

    def restart(self) -> None:
        """Forget earlier inputs: an epoch begins."""
        self._seen: dict[str, tuple[Tensor, Tensor]] = {}  # per channel: the lower value, the upper value
        self._alive: set[str] = set()

    @contextlib.contextmanager
    def looked_at(self, number: int) -> Iterator[bool]:
        """Around the forward passes of step `number` of the epoch; whether layers are examined."""
        if number not in self._steps:
            yield False
            return
        handles = [
            layer.register_forward_pre_hook(self._look(name))
            for name, layer in self._layers.items()
            if name not in self._alive and not any(is_split(p) for p in layer.quantizer.parameters())
        ]
        try:
            yield bool(self._layers)  # by the number of the step alone: a run that continues does the same
        finally:
            for handle in handles:
                handle.remove()
        names = [name for name in self._seen if name not in self._alive]
        if names:  # one question to the device, not one per layer
            both = torch.stack([(low & high).any() for low, high in (self._seen[name] for name in names)])
            self._alive.update(name for name, alive in zip(names, both.tolist(), strict=True) if alive)

    def constant(self) -> list[str]:
        """The layers, by path, that were called and in whose input no channel changed sign; of all processes.

        All processes have to call this.
        """
        if not self._layers:
            return []
        alive = [float(name in self._alive) for name in self._layers]
        called = [float(name in self._seen) for name in self._layers]
        counts = all_sum(torch.tensor([alive, called], device=self._device)).tolist()
        return [name for name, a, c in zip(self._layers, *counts, strict=True) if c and not a]

    def _look(self, name: str) -> Any:
        def look(layer: Any, args: Any) -> None:
            x = args[0] if args else None
            if not isinstance(x, Tensor) or not x.numel():
                return
            with torch.no_grad():
                upper = layer.quantizer.is_upper(x.detach()[:_SAMPLES])
                dim = -1 if isinstance(layer, nn.Linear) else 1
                flat = upper.movedim(dim, 0).flatten(1)
                high, low = flat.any(1), flat.logical_not().any(1)
                before = self._seen.get(name)
                self._seen[name] = (low, high) if before is None else (low | before[0], high | before[1])

        return look
