"""What a rival gives: something to time, and its results."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Program:
    """A network that is compiled for one input.

    Attributes:
        run: one pass; results stay in the program's own memory.
        outputs: the tensors of the last pass, in the order of the float network's.
    """

    run: Callable[[], Any]
    outputs: Callable[[], list[Tensor]]


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
