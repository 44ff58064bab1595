"""The weights that a training is about: averaged where the recipe says so, and whole where they are split."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from binarize.training.sharding import local, whole


class Weights:
    """A network's weights as evaluation and files want them.

    Args:
        net: the network that is trained.
        averaged: keep a moving average of every trained parameter.
        twin: a copy of `net` from before it was split, to hold whole weights; None if it is not split.
    """

    def __init__(self, net: nn.Module, *, averaged: bool, twin: nn.Module | None = None) -> None:
        self._net, self._twin = net, twin
        self.average: dict[str, Tensor] | None = None
        if averaged:
            self.average = {n: p.detach().clone() for n, p in net.named_parameters() if p.requires_grad}

    def to(self, device: torch.device) -> None:
        """Move the average."""
        if self.average is not None:
            self.average = {name: tensor.to(device) for name, tensor in self.average.items()}

    def follow(self, decay: float) -> None:
        """Mix the weights of now into the average: decay * average + (1 - decay) * weight."""
        if self.average is None:
            return
        with torch.no_grad():
            for name, parameter in self._net.named_parameters():
                if name in self.average:
                    local(self.average[name]).lerp_(local(parameter), 1.0 - decay)

    @contextmanager
    def network(self, device: torch.device) -> Iterator[nn.Module]:
        """A network with whole weights, the averaged ones if there are any, for as long as the block runs.

        All processes have to ask for it; after that each may use it on its own.

        Args:
            device: where to have it.
        """
        if self._twin is not None:
            state = {**self._net.state_dict(), **(self.average or {})}
            self._twin.load_state_dict({name: whole(tensor) for name, tensor in state.items()})
            del state
            try:
                yield self._twin.to(device)
            finally:
                self._twin.to("cpu")  # its place is wanted for the maps of training
        elif self.average is not None:
            with _swapped(self._net, self.average):
                yield self._net
        else:
            yield self._net


@contextmanager
def _swapped(net: nn.Module, average: dict[str, Tensor]) -> Iterator[None]:
    parameters = {name: p for name, p in net.named_parameters() if name in average}
    own = {name: p.detach().clone() for name, p in parameters.items()}
    try:
        with torch.no_grad():
            for name, p in parameters.items():
                p.copy_(average[name])
        yield
    finally:
        with torch.no_grad():
            for name, p in parameters.items():
                p.copy_(own[name])
