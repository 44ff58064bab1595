"""How the processes of a training hold its network: the interface of `Replicas` and `Shards`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor, nn


class Strategy(Protocol):
    """One network in one process or many; chosen once, in `setup`.

    Attributes:
        net: the network whose parameters are trained and whose state is saved.
        model: what a training step calls: `net`, or its wrapper. Set by `wrap`.
        standalone: a network that this process can run without the others, to see what it takes and gives;
            its weights may be those of the start.
    """

    net: nn.Module
    model: nn.Module
    standalone: nn.Module

    def wrap(self) -> None:
        """Make `model`, when the network has its weights and its optimizer."""
        ...

    def reduce_gradients(self) -> None:
        """After the backward pass: leave the mean over all processes in every gradient."""
        ...

    def clip_gradients(self, most: float) -> None:
        """Scale all gradients so that the norm of all of them together is at most `most`."""
        ...

    def whole_network(
        self, average: Mapping[str, Tensor] | None, device: torch.device, *, wanted: bool = True
    ) -> AbstractContextManager[nn.Module]:
        """A network with whole weights, for as long as the block runs. All processes have to call this.

        Args:
            average: weights to use in place of the network's own, by name of the parameter.
            device: where to have it.
            wanted: whether this process uses the network; False if it only takes part in the gathering.
        """
        ...
