"""Running a model without leaving a trace on it: flags, attributes, buffers and logs come back."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

State = tuple[dict[str, Any], dict[str, Any]]


def state_of(module: nn.Module) -> State:
    """What a module holds: its attributes, and copies of those that are lists, dicts or sets."""
    attributes = dict(module.__dict__)
    return attributes, {n: copy.copy(v) for n, v in attributes.items() if type(v) in (list, dict, set)}


def restore(module: nn.Module, state: State) -> None:
    """Give a module back what `state_of` found."""
    attributes, contents = state
    module.__dict__.clear()
    module.__dict__.update(attributes)
    for name, content in contents.items():
        held = attributes[name]
        if same_items(held, content):
            continue
        held.clear()
        held.extend(content) if isinstance(held, list) else held.update(content)


def changed_attribute(module: nn.Module, state: State) -> str | None:
    """The name of an attribute that is not, or does not hold, what `state_of` found; None without one."""
    attributes, contents = state
    for name, value in module.__dict__.items():
        if name not in attributes or attributes[name] is not value:
            return name
        if name in contents and not same_items(value, contents[name]):
            return name
    return None


def same_items(a: Any, b: Any) -> bool:
    """Whether two lists, dicts or sets hold the same objects; tensors are not compared by value."""
    if len(a) != len(b):
        return False
    if isinstance(a, set):
        return a == b
    if isinstance(a, dict):
        return all(m is n and a[m] is b[n] for m, n in zip(a, b, strict=True))
    return all(m is n for m, n in zip(a, b, strict=True))


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
