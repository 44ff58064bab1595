"""What the C library does with freed memory: keeps it for the next forward pass, or returns it."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt(3)
_KEPT = 2_000_000_000


def keep_memory() -> bool:
    """Let the C library keep up to 2 GB of freed memory for the rest of the process.

    By default it returns every large map to the system when it is freed and gets fresh, zeroed pages for the
    next one. On maps of a hundred megabytes, as the heads of dense-prediction networks have them, that takes
    about a third of the time of a packed network. It affects all allocations of the process. So only the
    command line calls it by itself, since the process is its own.

    Returns:
        Whether it could be done: on Linux with glibc.
    """
    mallopt = _of_glibc("mallopt")
    return mallopt is not None and bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _KEPT))


def return_memory() -> None:
    """Return what is free to the system, where that can be asked for: on Linux with glibc.

    What recording a run of a network takes is in many small pieces, which glibc would keep: 300 MB more than
    the program needs, for a UPerNet at 480x480.
    """
    if (trim := _of_glibc("malloc_trim")) is not None:
        trim(0)


def _of_glibc(name: str) -> Any:
    """A function of the C library; None with another one."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
