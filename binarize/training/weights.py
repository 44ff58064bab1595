"""The weights that a training is about: averaged where the recipe says so, and whole where they are split."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from binarize.training.dtensor import gathered, local_part


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
                    local_part(self.average[name]).lerp_(local_part(parameter), 1.0 - decay)

    @contextmanager
    def network(self, device: torch.device, *, wanted: bool = True) -> Iterator[nn.Module]:
        """A network with whole weights, the averaged ones if there are any, for as long as the block runs.

        All processes have to ask for it; after that each may use it on its own.

        Args:
            device: where to have it.
            wanted: whether this process wants it, or asks for the sake of the others.
        """
        if self._twin is not None:
            self._gather(self._twin, wanted)
            try:
                yield self._twin.to(device)
            finally:
                self._twin.to("cpu")  # its place is wanted for the maps of training
        elif self.average is not None:
            with _swapped(self._net, self.average):
                yield self._net
        else:
            yield self._net

    def _gather(self, twin: nn.Module, wanted: bool) -> None:
        """Put this moment's weights into the twin, one by one: all of them may not fit the device."""
        # A module with two names is twice in a state, and once among the parameters, as in the average.
        average = self.average or {}
        targets = [(twin.state_dict(), self._net.state_dict()), (dict(twin.named_parameters()), average)]
        with torch.no_grad():
            for own, given in targets:
                for name, tensor in given.items():
                    found = gathered(tensor)
                    if wanted:
                        own[name].copy_(found)


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
