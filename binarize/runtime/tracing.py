"""Who watches a computation: kernels, which torch does not see, must not be called then."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_functorch: Any = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
_is_jit_tracing = torch.jit.is_tracing  # pyright: ignore[reportPrivateImportUsage]
_is_compiling = torch.compiler.is_compiling
_dispatch_modes: Any = torch._C._len_torch_dispatch_stack  # pyright: ignore[reportAttributeAccessIssue]


class _Wanted(threading.local):
    operators = False


_wanted = _Wanted()


def is_recorded() -> bool:
    """Whether torch compiles or traces, by `torch.jit.trace`, what this thread does."""
    return _is_jit_tracing() or _is_compiling()


def is_traced(x: Tensor) -> bool:
    """Whether what is done with `x` is being written down or transformed: kernels would not be seen."""
    watched = is_recorded() or _dispatch_modes() > 0
    return watched or _functorch.is_functorch_wrapped_tensor(x)


@contextlib.contextmanager
def as_operators() -> Iterator[None]:
    """Packed layers traced meanwhile, on this thread, are one operator each (`binarize.runtime.ops`).

    By default a trace sees what they compute in plain torch, which every exporter knows.
    """
    before, _wanted.operators = _wanted.operators, True
    try:
        yield
    finally:
        _wanted.operators = before


def operators_wanted() -> bool:
    """Whether this thread is within `as_operators`."""
    return _wanted.operators
