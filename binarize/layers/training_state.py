"""What changes while a network trains: numbers that follow the progress of training, kept in buffers.

A schedule is a function from the progress (0 at the start, 1 at the end) to a number. The number itself is
the buffer: checkpoints hold it, copies have it, and a loop sets it by one call of `set_progress`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed, nn

from binarize.errors import ConfigError

Schedule = Callable[[float], float]
"""From the progress, 0 to 1, to a number. Networks are copied and pickled with it: a function of a module, a
`functools.partial` of one, or a method of a frozen dataclass."""


def set_progress(model: nn.Module, progress: float) -> None:
    """Tell all parts of a network that change during training how far it is.

    A loop of one's own needs one line, in front of the steps of an epoch or of each step:
    `binarize.set_progress(model, epoch / epochs)`; after the last one: `binarize.set_progress(model, 1.0)`.
    `binarize train` does it at each step. Networks without such parts are left as they are. Called are
    modules with a method `follow_training(progress)`. If weights are split between processes, all processes
    have to call this.

    Args:
        model: converted; also in a wrapper of torch (compiled, data-parallel).
        progress: 0 at the start of training, 1 at its end.

    Raises:
        ConfigError: a progress that is not a number from 0 to 1.
    """
    number = isinstance(progress, (int, float)) and not isinstance(progress, bool)
    if not number or not 0.0 <= progress <= 1.0:
        raise ConfigError(
            f"set_progress: progress={progress!r}, expected a number from 0 (start of training) to 1 (its "
            "end), for example epoch / epochs."
        )
    for module in model.modules():
        follow: Any = getattr(module, "follow_training", None)
        if callable(follow):
            follow(float(progress))


class Numbers(nn.Module):
    """Numbers that follow the progress of training: a buffer () each, of float32 at first.

    Args:
        **schedules: the number at each progress, by name. Their order is that of `numbers`.
    """

    def __init__(self, **schedules: Schedule) -> None:
        super().__init__()
        self._schedules = schedules
        for name, at in schedules.items():
            self.register_buffer(name, torch.tensor(_finite(name, at, 0.0)))

    def numbers(self) -> tuple[Tensor, ...]:
        """All of them, () each; see `as_they_are`."""
        return as_they_are(*(self.get_buffer(name) for name in self._schedules))

    def set(self, progress: float) -> None:
        """Set them, in place: whoever holds a buffer sees it."""
        for name, at in self._schedules.items():
            self.get_buffer(name).fill_(_finite(name, at, progress))

    def extra_repr(self) -> str:
        """Their names."""
        return ", ".join(self._schedules)


def as_they_are(*buffers: Tensor) -> tuple[Tensor, ...]:
    """Buffers for a rule: while gradients are recorded copies, which the backward pass finds unchanged."""
    return tuple(b.clone() for b in buffers) if torch.is_grad_enabled() else buffers


class WeightState(Numbers):
    """What a weight rule takes beside the weights; subclasses add learnt numbers and matrices.

    Attributes:
        unfinished: why the weights do not have two values yet, if that comes with the progress of training.
    """

    unfinished: str = ""

    def start(self, weight: Tensor) -> None:
        """Take start values from the latent weights, (Cout, Cin / groups, ...), output filters first."""

    def prepare(self, weight: Tensor) -> None:
        """The layer is about to compute with these latent weights, as in `start`, in training mode."""

    def rule_parameters(self) -> tuple[Tensor, ...]:
        """The tensors that the weight rule takes beside the weights, in its order."""
        return self.numbers()

    def follow(self, progress: float, weight: Callable[[], Tensor]) -> None:
        """Training has come to `progress`; `weight()` gives the latent weights as in `start`."""
        self.set(progress)


def processes() -> int:
    """How many processes share a batch."""
    shared = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if shared else 1


def mean_of_processes(x: Tensor) -> Tensor:
    """The mean of `x` over all processes, each of which has to call this; `x` may be overwritten."""
    if (count := processes()) > 1:
        distributed.all_reduce(x)
        x = x / count
    return x


def _finite(name: str, at: Schedule, progress: float) -> float:
    value = float(at(progress))
    if not math.isfinite(value):
        raise ConfigError(
            f"the schedule of {name} gives {value} at progress {progress}: expected a finite number."
        )
    return value
