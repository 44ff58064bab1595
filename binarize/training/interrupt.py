"""Ctrl-C during a training: it waits until the step is done, in all processes alike."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator

from binarize.training.distributed import all_sum


@contextmanager
def interruptible(accelerator: Accelerator) -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C wait for the end of a step; a second one does not. In other threads nothing changes.

    Args:
        accelerator: that knows the processes.

    Yields:
        A function that returns whether Ctrl-C was pressed in any process; all processes have to call it.
    """
    pressed = False

    def note(number: int, frame: object) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    def stopped() -> bool:
        if accelerator.num_processes == 1:
            return pressed
        return bool(all_sum(torch.tensor(float(pressed), device=accelerator.device)).item())

    try:
        old = signal.signal(signal.SIGINT, note)
    except ValueError:  # not the main thread
        yield stopped
        return
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, old)
