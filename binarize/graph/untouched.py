"""Running a model without leaving a trace on it: flags, attributes, buffers and logs come back."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn


def state_of(module: nn.Module) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """What a module holds: its attributes, and the contents of its registries."""
    registries = ("_parameters", "_buffers", "_modules")
    return dict(module.__dict__), {name: dict(module.__dict__[name]) for name in registries}


def restore(module: nn.Module, state: tuple[dict[str, Any], dict[str, dict[str, Any]]]) -> None:
    """Give a module back what `state_of` found."""
    attributes, registries = state
    module.__dict__.clear()
    module.__dict__.update(attributes)
    for name, content in registries.items():
        module.__dict__[name].clear()
        module.__dict__[name].update(content)


@contextlib.contextmanager
def unchanged(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Give modules back what they held, whatever their forwards store on them meanwhile."""
    states = [(module, state_of(module)) for module in modules]
    try:
        yield
    finally:
        for module, state in states:
            restore(module, state)


@contextlib.contextmanager
def quiet(name: str) -> Iterator[None]:
    """No log lines of a failing fake run: the failure is reported, or a real run follows."""
    logger = logging.getLogger(name)
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


@contextlib.contextmanager
def same_buffers(model: nn.Module) -> Iterator[None]:
    """Counters that a run moves come back; in-place steps on buffers are real even on fake inputs."""
    values = [(buffer, buffer.detach().clone()) for buffer in model.buffers() if not buffer.is_meta]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in values:
                buffer.copy_(value)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for the time being; each module's own flag comes back."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, flag in flags:
            module.training = flag
