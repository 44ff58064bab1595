"""What ends a training before its time, Ctrl-C or a callback: once a step is done, in all processes alike."""

from __future__ import annotations

import enum
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator

from binarize.training.callbacks import Callbacks
from binarize.training.distributed import all_sum


class Stop(enum.IntEnum):
    """Whether, and by whom, a training is to end; of several the highest counts."""

    NO = 0
    CALLBACK = 1
    CTRL_C = 2
    FAILURE = 3  # of a callback


@contextmanager
def interruptible(accelerator: Accelerator, callbacks: Callbacks) -> Iterator[Callable[[], Stop]]:
    """Let Ctrl-C wait for the end of a step; a second one does not. In other threads nothing changes.

    Args:
        accelerator: that knows the processes.
        callbacks: which may end the training too.

    Yields:
        A function that returns whether any process is to end; all processes have to call it.
    """
    pressed = False

    def note(number: int, frame: object) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    def stopped() -> Stop:
        wanted = {
            Stop.CALLBACK: callbacks.reason is not None,
            Stop.CTRL_C: pressed,
            Stop.FAILURE: callbacks.failure is not None,
        }
        if accelerator.num_processes > 1:
            flags = torch.tensor([float(on) for on in wanted.values()], device=accelerator.device)
            wanted = dict(zip(wanted, (all_sum(flags) > 0).tolist(), strict=True))
        return max((kind for kind, on in wanted.items() if on), default=Stop.NO)

    try:
        old = signal.signal(signal.SIGINT, note)
    except ValueError:  # not the main thread
        yield stopped
        return
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, old)
