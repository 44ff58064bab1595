"""What a rival gives: something to time, and its results."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Program:
    """A network that is compiled for one input.

    Attributes:
        run: one pass; results stay in the program's own memory.
        outputs: the tensors of the last pass, in the order of the float network's.
        stored: bytes of the files that hold the network in the form that is run.
    """

    run: Callable[[], Any]
    outputs: Callable[[], list[Tensor]]
    stored: Callable[[], int] = lambda: 0


@functools.cache
def sums_saturate() -> bool:
    """Whether this processor adds products of int8 pairs in 16 bits, where they saturate.

    x86 without VNNI has no other fast instruction. Weights of 7 bits fit; they take the same time.
    """
    try:
        words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return True
    return not words & {"avx512_vnni", "avx_vnni", "asimddp", "amx_int8"}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what other packages print about their own work (progress bars, warnings, logs) off the screen."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
