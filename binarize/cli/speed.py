"""Helpers that make commands fast, and measure their time."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterator

from binarize.cli.output import progress


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """While torch and timm are imported: show that, and switch the garbage collector off.

    An import makes hundreds of thousands of objects and no garbage; the search for it takes a sixth of the
    time.
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
    """Set torch's number of threads; restore it at the end."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_thread() -> contextlib.AbstractContextManager[None]:
    """Set torch to one thread.

    Building and converting a network are thousands of small steps: waking more threads for each costs more
    than it saves (four times the whole work of a ConvNeXt-Tiny, on a busy machine of two cores).
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
        """Run torch in one thread; show `text` meanwhile and add the time to `phase`."""
        with progress(text), self.timed(phase), one_thread():
            yield
