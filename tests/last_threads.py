"""What of gloo still runs when a program in several processes ends.

A thread of gloo that outlives the interpreter can abort the process.
"""

from __future__ import annotations

import atexit
import sys
from contextlib import suppress
from pathlib import Path

LEFT = "threads of gloo at the end:"


def watch() -> None:
    """Write a line to stderr at the end, after all that is registered later."""
    atexit.register(_report)


def _report() -> None:
    left = []
    for task in Path("/proc/self/task").glob("*/comm"):  # none where there is no such folder
        with suppress(OSError):  # it ended meanwhile
            left.append(task.read_text().strip())
    left = [name for name in left if "gloo" in name]
    sys.stderr.write(f"{LEFT} {len(left)} {' '.join(left)}\n")
