"""A process that checks one model after another: one line of JSON in, one line of JSON out.

It is a separate process, because some models end it: memory runs out, a kernel crashes.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys

import torch

from binarize.coverage.catalogue import subject
from binarize.coverage.checks import check


def main() -> None:
    """Serve until stdin ends."""
    results = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # output that models print is not a result
    torch.set_num_threads(1)
    for line in sys.stdin:
        job = json.loads(line)
        record = check(
            subject(job["name"], job["use"], job["library"]),
            job["method"],
            memory=job["memory"],
            activations=job["activations"],
        )
        results.write(record.dumps() + "\n")
        _give_memory_back()


def _give_memory_back() -> None:
    """Return freed memory to the system, where the C library can: another process may need it next."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


if __name__ == "__main__":
    main()
