"""Functions by torch.jit.script: torch does not report their calls to function modes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch


@contextlib.contextmanager
def scripted_calls(step: Callable[[Any, Any, tuple[Any, ...], dict[str, Any]], Any]) -> Iterator[None]:
    """Meanwhile, replace every call of a scripted function by `step(function, original, args, kwargs)`."""
    cls: Any = torch.jit.ScriptFunction
    original = cls.__call__

    def call(function: Any, *args: Any, **kwargs: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            return original(function, *args, **kwargs)

        return step(function, run, args, kwargs)

    cls.__call__ = call
    try:
        yield
    finally:
        cls.__call__ = original
