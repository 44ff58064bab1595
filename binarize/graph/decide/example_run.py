"""The run that a plan is made from: on the caller's example inputs, or on images of a size that fits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from binarize.errors import ConfigError, TraceError
from binarize.graph.trace.recorder import RunError, record
from binarize.graph.trace.recording import Recording
from binarize.graph.trace.roles import module_role
from binarize.model_info import built_size

_GUESSES = (224, 256, 64, 32, 384, 512)


def example_size(model: nn.Module) -> tuple[int, ...] | None:
    """(C, H, W) of the images that a model, or a part of it, was built for; None if nothing says it."""
    for holder in (model, *model.children()):
        if (size := built_size(holder)) is not None:
            return size
    return None


def run_of(model: nn.Module, example_inputs: Any) -> Recording:
    """The recorded run of `model` on its example inputs, by default on images that are tried in turn.

    Raises:
        ConfigError: a shape in place of a tensor.
        TraceError: the model does not run on them.
    """
    if example_inputs is not None:
        if isinstance(example_inputs, dict):
            return record(model, (), example_inputs)
        args = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
        if args and all(isinstance(part, int) for part in args):
            raise ConfigError(
                f"example_inputs={example_inputs!r}: expected a tensor, or a tuple of what forward takes, "
                f"not a shape: torch.rand({', '.join(map(str, args))})."
            )
        return record(model, args)
    parameter = next(model.parameters())
    dtype = parameter.dtype if parameter.dtype.is_floating_point else torch.float32
    failures: list[RunError] = []
    for shape in (shapes := _example_shapes(model)):
        try:
            return record(model, (_blank(shape, dtype, parameter.device),))
        except RunError as error:
            failures.append(error)
    if len(shapes) == 1:
        raise failures[0]
    tried = ", ".join("x".join(map(str, shape)) for shape in shapes)
    raise TraceError(
        f"{type(model).__name__} does not run on any example input that was tried, {tried} (the "
        f"last: {failures[-1].cause}); give example_inputs=, a tensor or a tuple of what forward takes."
    )


def _blank(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if device.type == "meta":
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.randn(shape, generator=generator).to(device, dtype)


def _example_shapes(model: nn.Module) -> list[tuple[int, ...]]:
    known = example_size(model)
    if known is not None:
        return [(1, *known)]
    first = next((m for m in model.modules() if module_role(m) in ("conv", "linear")), None)
    if isinstance(first, nn.Linear):
        return [(2, first.in_features), (2, 16, first.in_features), (1, 3, 224, 224)]
    if isinstance(first, nn.Conv1d):
        return [(1, first.in_channels, n) for n in (1024, 256, 64)]
    if isinstance(first, nn.Conv3d):
        return [(1, first.in_channels, n, n, n) for n in (32, 64)]
    channels = getattr(first, "in_channels", 3)
    return [(1, channels, n, n) for n in _GUESSES]
