"""The states of the global random generators: restored after use, or replaced by one generator."""

from __future__ import annotations

import contextlib
import random
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from binarize.errors import ConfigError


@contextlib.contextmanager
def same_random_state() -> Iterator[None]:
    """Restore the state of Python's, NumPy's and torch's global generators at the end.

    NumPy's only where it is imported, those of accelerators only where these are in use.
    """
    numpy: Any = sys.modules.get("numpy")
    python, arrays = random.getstate(), None if numpy is None else numpy.random.get_state()
    used = [module for module in (torch.cuda, torch.xpu) if module.is_initialized()]
    with _disable_current_modes():  # a state is a tensor
        cpu = torch.default_generator.get_state()
        states = [module.get_rng_state_all() for module in used]
    try:
        yield
    finally:
        random.setstate(python)
        if arrays is not None and numpy is not None:
            numpy.random.set_state(arrays)
        with _disable_current_modes():
            torch.default_generator.set_state(cpu)
            for module, state in zip(used, states, strict=True):
                module.set_rng_state_all(state)


@contextlib.contextmanager
def drawing_from(generator: torch.Generator | None) -> Iterator[None]:
    """Draw from `generator` instead of the global generators, whose states stay as they were.

    Args:
        generator: on the CPU; its state advances. By default a new one of seed 0. `torch.default_generator`
            is torch's own, whose numbers are then drawn as usual.

    Raises:
        ConfigError: `generator` is something else.
    """
    if generator is torch.default_generator:
        yield
        return
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    if not isinstance(generator, torch.Generator) or generator.device.type != "cpu":
        given = f"on {generator.device}" if isinstance(generator, torch.Generator) else repr(generator)
        raise ConfigError(
            f"generator: got {given}, expected a torch.Generator on the CPU, such as "
            "torch.Generator().manual_seed(1), or None for the same numbers in every call."
        )
    numpy: Any = sys.modules.get("numpy")
    with same_random_state():
        state = generator.get_state()
        seed = zlib.crc32(state.numpy().tobytes())
        random.seed(seed)
        if numpy is not None:
            numpy.random.seed(seed)
        for module in (torch.cuda, torch.xpu):
            if module.is_initialized():
                module.manual_seed_all(seed)
        torch.default_generator.set_state(state)
        try:
            yield
        finally:
            generator.set_state(torch.default_generator.get_state())
