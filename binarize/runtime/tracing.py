"""Whether a computation is recorded or transformed: then kernels, which torch cannot record, must not run."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import _get_current_function_mode_stack as _modes_of_functions
from torch.utils._device import DeviceContext

_functorch: Any = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
_is_jit_tracing = torch.jit.is_tracing  # pyright: ignore[reportPrivateImportUsage]
_function_modes: Any = torch._C._len_torch_function_stack  # pyright: ignore[reportAttributeAccessIssue]
_is_compiling = torch.compiler.is_compiling
_dispatch_modes: Any = torch._C._len_torch_dispatch_stack  # pyright: ignore[reportAttributeAccessIssue]


class _Wanted(threading.local):
    operators = False


_wanted = _Wanted()


def is_recorded() -> bool:
    """Whether torch compiles or traces, by `torch.jit.trace`, what this thread does."""
    return _is_jit_tracing() or _is_compiling()


def is_traced(x: Tensor) -> bool:
    """Whether what is done with `x` is being written down or transformed: kernels would not be recorded."""
    watched = is_recorded() or _dispatch_modes() > 0
    return watched or _functorch.is_functorch_wrapped_tensor(x)


def is_watched() -> bool:
    """Whether anything on this thread sees or transforms what torch does: a program would hide it."""
    if is_recorded() or _dispatch_modes() > 0 or _functorch.peek_interpreter_stack() is not None:
        return True
    if forward_ad._current_level >= 0:
        return True
    # the mode of a default device changes nothing that a network does with its tensors
    return _function_modes() > 0 and any(type(mode) is not DeviceContext for mode in _modes_of_functions())


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
