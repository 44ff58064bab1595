"""`summary`: run a network once and count it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter

from binarize.accounting.honest import count_honestly
from binarize.accounting.paper import count_as_paper
from binarize.accounting.paper_rules import WHOLE
from binarize.accounting.record import record
from binarize.accounting.report import Summary
from binarize.errors import ConfigError, unknown_name
from binarize.runtime import PackedLayer

Convention = Literal["honest", "paper"]
InputSize = int | Sequence[int] | Tensor | Sequence[Any]

_COUNTERS = {"honest": count_honestly, "paper": count_as_paper}


def summary(model: nn.Module, input_size: InputSize, convention: Convention = "honest") -> Summary:
    """Count parameters, work and bytes of a network, layer by layer.

    The network is run once, in eval mode and without gradients, on a copy: without data if its forward does
    not depend on the data, else with data. The network itself is not changed.

    Args:
        model: any network, float or binary.
        input_size: an int n for n x n, (H, W), (C, H, W), (N, C, H, W), or example tensors as a tuple of
            positional arguments. Without C, the input channels of the first convolution are taken, if they
            are at most 4, else 3; without N, one image.
        convention: `honest` (`binarize.accounting.honest`) gives what the network costs; `paper`
            (`binarize.accounting.paper`) counts as the printed tables of the BiDense paper do, slips of their
            counter included (`binarize.accounting.paper_slips`).

    Raises:
        ConfigError: for an input size or a convention that cannot be understood, or `paper` for a
            packed model.
        TraceError: if the model does not run on such an input.
    """
    return summaries(model, input_size, (convention,))[convention]


def summaries(
    model: nn.Module, input_size: InputSize, conventions: Sequence[Convention] = get_args(Convention)
) -> dict[Convention, Summary]:
    """The `summary` of each of these conventions, from one run of the network.

    Args:
        model: as for `summary`.
        input_size: as for `summary`.
        conventions: those that are wanted.

    Raises:
        ConfigError, TraceError: as `summary`.
    """
    for convention in conventions:
        if convention not in get_args(Convention):
            raise ConfigError(unknown_name("convention", convention, get_args(Convention)))
    model = getattr(model, "_orig_mod", model)  # a model by torch.compile
    if "paper" in conventions and any(isinstance(module, PackedLayer) for module in model.modules()):
        raise ConfigError(
            "convention='paper' counts the layers of a network in training, which a packed one has folded: "
            "count the converted model, or use convention='honest'."
        )
    inputs = _inputs(model, input_size)
    recording = record(model, inputs, WHOLE)
    shapes = tuple(tuple(t.shape) for t in tree_iter(inputs()) if isinstance(t, Tensor))
    found: dict[Convention, Summary] = {}
    for convention in conventions:
        layers, uncounted = _COUNTERS[convention](model, recording)
        found[convention] = Summary(
            model=type(model).__name__,
            inputs=shapes,
            convention=convention,
            layers=layers,
            uncounted=uncounted,
        )
    return found


def _inputs(model: nn.Module, size: InputSize) -> Callable[[], tuple[Any, ...]]:
    """The function that makes the positional arguments of the model's forward."""
    if isinstance(size, Tensor):
        return lambda: (size,)
    sizes = [size, size] if isinstance(size, int) else list(size)
    if any(isinstance(item, Tensor) for item in tree_iter(sizes)):
        return lambda: tuple(sizes)
    if not all(isinstance(n, int) and n > 0 for n in sizes) or not 2 <= len(sizes) <= 4:
        raise ConfigError(
            f"input_size={size!r}: expected n, (H, W), (C, H, W) or (N, C, H, W) of positive integers, "
            "or a tuple of example tensors."
        )
    shape = [*[1, _channels(model)][: 4 - len(sizes)], *sizes]
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return lambda: (torch.zeros(shape, dtype=parameter.dtype, device=parameter.device),)


def _channels(model: nn.Module) -> int:
    first = next((m for m in model.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d))), None)
    return first.in_channels if first is not None and first.in_channels <= 4 else 3
