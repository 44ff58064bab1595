"""A network's forward and backward pass compiled by torch: the same results, in fewer passes over memory."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from binarize.errors import ConfigError, first_line

_COMPILING = 3
"""Calls that may compile: layers that start from the first batch have other code from the second on."""


class CompiledForward:
    """A network's forward, compiled at its first call; nothing of the network itself changes.

    Dropout draws what it draws without compilation, from torch's seed: compiled and not, a run sees the same.

    Args:
        model: the network, in its wrapper of data-parallel training if there are several processes.
    """

    def __init__(self, model: nn.Module) -> None:
        # its warnings are about its own choices, and would stand in the middle of a progress bar
        for name in ("torch._inductor", "torch.utils.cpp_extension"):
            logging.getLogger(name).setLevel(logging.ERROR)
        from torch._dynamo.exc import TorchDynamoException  # takes a second, for those who compile only

        self._failure: type[Exception] = TorchDynamoException
        self._model = model
        self._calls = 0
        self._call: Any = torch.compile(model, options={"fallback_random": True})

    def __call__(self, images: Tensor) -> Tensor:
        """The network's output.

        Raises:
            ConfigError: torch cannot compile it here. What fails without compilation, too, raises that error.
        """
        try:
            with _without_remarks(self._calls < _COMPILING):
                result = self._call(images)
        except self._failure as error:
            self._model(images)  # images that are too small, say: its own error names that
            raise ConfigError(
                f"training.compile: torch.compile fails on this network or machine: {_cause(error)} Leave "
                "training.compile out."
            ) from error
        self._calls += 1
        return result


@contextlib.contextmanager
def _without_remarks(compiles: bool) -> Iterator[None]:
    """While torch compiles, keep its warnings about its own steps from the user."""
    if not compiles:
        yield
        return
    log = logging.getLogger("torch._dynamo")  # layers that start from the first batch break the graph once
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
            yield
    finally:
        log.setLevel(level)


def _cause(error: BaseException) -> str:
    """The first line of what went wrong inside, with a full stop."""
    inner: BaseException = getattr(error, "inner_exception", None) or error.__cause__ or error
    return f"{first_line(inner).rstrip('.')}."
