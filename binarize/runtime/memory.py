"""Memory of large maps: kept by the process instead of being fetched anew for every forward pass."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt(3)
_KEPT = 2_000_000_000


def keep_memory() -> bool:
    """Let the C library keep up to 2 GB of freed memory for the rest of the process.

    By default it returns every large map to the system when it is freed and gets fresh, zeroed pages for the
    next one. On maps of a hundred megabytes, as the heads of dense-prediction networks have them, that takes
    about a third of the time of a packed network. It concerns all allocations of the process, which is why
    nothing here does it unasked but the command line, whose process is its own.

    Returns:
        Whether it could be done: on Linux with glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _KEPT))
