"""A whole copy of the network in every process: training in one process, or torch's DDP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import Tensor, nn


class Replicas:
    """The `Strategy` of processes that each hold all weights.

    Args:
        net: the network, with the same values in all processes.
        accelerator: that knows the processes.
    """

    def __init__(self, net: nn.Module, accelerator: Accelerator) -> None:
        self.net = self.model = self.standalone = net
        self._accelerator = accelerator

    def wrap(self) -> None:
        """Move the network to its device; with several processes, wrap it in DDP."""
        self.model = self._accelerator.prepare_model(self.net)

    def reduce_gradients(self) -> None:
        """DDP did it in the backward pass."""

    def clip_gradients(self, most: float) -> None:
        """See `Strategy`."""
        self._accelerator.clip_grad_norm_(self.model.parameters(), most)

    @contextmanager
    def whole_network(
        self, average: Mapping[str, Tensor] | None, device: torch.device, *, wanted: bool = True
    ) -> Iterator[nn.Module]:
        """The network itself, where it is; until the block ends its parameters hold the average."""
        if average is None:
            yield self.net
            return
        parameters = {name: p for name, p in self.net.named_parameters() if name in average}
        own = {name: p.detach().clone() for name, p in parameters.items()}
        try:
            with torch.no_grad():
                for name, p in parameters.items():
                    p.copy_(average[name])
            yield self.net
        finally:
            with torch.no_grad():
                for name, p in parameters.items():
                    p.copy_(own[name])
