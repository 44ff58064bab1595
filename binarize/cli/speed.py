"""What makes commands quick, and says how quick they were."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterator

from binarize.cli.output import progress


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """While torch and timm are imported: show it, and switch the garbage collector off.

    An import makes hundreds of thousands of objects and no garbage; looking for it takes a sixth of the time.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        with progress("loading torch and timm"):
            yield
    finally:
        if collects:
            gc.enable()


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch work in so many threads, and then in as many as before."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_thread() -> contextlib.AbstractContextManager[None]:
    """Let torch work in one thread.

    Building and converting a network are thousands of small steps: waking more threads for each costs more
    than it gains (four times the whole work of a ConvNeXt-Tiny, on a busy machine of two cores).
    """
    return threads(1)


class Clock:
    """Wall-clock seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the time that the block takes to `phase`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start

    @contextlib.contextmanager
    def phase(self, phase: str, text: str) -> Iterator[None]:
        """Work of torch, in one thread: show `text` meanwhile and add its time to `phase`."""
        with progress(text), self.timed(phase), one_thread():
            yield
