"""Whether a network takes images of a size and gives what a loss needs: found out by one forward pass."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from binarize.data.dataset import Truth
from binarize.errors import BinarizeError, ConfigError, warn
from binarize.graph.model_copy import copied
from binarize.modes import evaluating
from binarize.training.outputs import selected
from binarize.training.tasks import task_of

_STEPS = (2, 4, 8, 16, 32, 64)  # networks often need sides that are multiples of one of these
_SQUARES = (224, 256, 384, 512)  # usual sizes of networks that take one size only
REFUSALS = (RuntimeError, ValueError, AssertionError, IndexError, TypeError, ZeroDivisionError)
"""What a network raises for a size that it does not take."""


def check_size(
    model: nn.Module,
    truth: Truth,
    size: tuple[int, int],
    where: str,
    chosen: str | int | None = None,
    *,
    trained: bool = False,
    exact: bool = False,
) -> tuple[int, int]:
    """Run a network once, in evaluation mode, and look at what comes out.

    Args:
        model: gives logits (N, classes, H, W) or metres (N, 1, H, W); its mode is restored.
        truth: of the data set.
        size: (H, W) of the images.
        where: the setting that gives this size, for messages: "data.augmentation.size".
        chosen: which of its outputs to take (`outputs.selected`).
        trained: whether the output has to be as fine as a loss needs it.
        exact: whether more outputs than classes are an error; else they are a warning.

    Returns:
        (H, W) of the output.

    Raises:
        ConfigError: the network does not take this size (the message names near ones that it does), or gives
            something else than the data set's truth needs.
    """
    try:
        output: Any = _evaluated(model, size)
    except REFUSALS as error:
        raise refused(model, size, where, error) from error
    except BinarizeError:
        raise
    except Exception as error:  # whatever the code of the user's does
        raise _failed(error) from error
    found, task = selected(output, chosen), task_of(truth)
    task.check(found, size if trained else None)
    if more := task.spare(found):
        if exact:
            raise ConfigError(
                f"{more}; let the callable take num_classes, which the data set gives, or set the number in "
                "network.options."
            )
        warn(
            f"{more}: outputs {task.outputs} to {found.shape[1] - 1} are never trained towards anything. "
            "Leave network.options.num_classes out, or set it to the number of classes."
        )
    return task.resolution(found, size)


def check_training(model: nn.Module, size: tuple[int, int], chosen: str | int | None = None) -> None:
    """Run a copy of a network once in training mode, in which it may do and return something else.

    Args:
        model: left untouched; one that cannot be copied is not run.
        size: (H, W) of the images.
        chosen: which of its outputs to take (`outputs.selected`).

    Raises:
        ConfigError: it fails, or gives no tensor.
    """
    try:
        other = copied(model).train()
    except ConfigError:
        return
    try:
        output = _run(other, size, images=2)
    except (BinarizeError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever the code of the user's does
        raise _failed(error, "in training ") from error
    try:
        selected(output, chosen)
    except ConfigError as error:
        raise ConfigError(f"in training {error}") from error


def _failed(error: Exception, when: str = "") -> ConfigError:
    return ConfigError(f"{when}the network's forward fails: {_described(error)}.")


def _described(error: Exception) -> str:
    """Type, first line and place of an error: the last line that is neither torch's nor the toolkit's."""
    ours = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(ours)]
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {first_line(error)}{place}"


def refused(model: nn.Module, size: tuple[int, int], where: str, error: Exception) -> Exception:
    """The error for a size that a network does not take, with the nearest ones that it does.

    Args:
        model: the network.
        size: (H, W).
        where: the setting that gives this size.
        error: that the network raised; it comes back if memory is what was missing.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return error
    near = working_sizes(model, size)
    if not near:
        return ConfigError(
            f"{where} [{size[0]}, {size[1]}]: the network fails at this size and at others near it: "
            f"{_described(error)}."
        )
    small = all(s[0] * s[1] > size[0] * size[1] for s in near)
    what = "is too small for the network" if small else "does not fit the network"
    works = " and ".join(f"[{h}, {w}]" for h, w in near)
    return ConfigError(
        f"{where} [{size[0]}, {size[1]}] {what}: {first_line(error)}. It takes {works} (height, width)."
    )


def first_line(error: Exception) -> str:
    """The message's first line, without its full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _evaluated(model: nn.Module, size: tuple[int, int]) -> object:
    with evaluating(model):
        return _run(model, size, images=1)


def _run(model: nn.Module, size: tuple[int, int], *, images: int) -> object:
    tensor = next((t for source in (model.parameters, model.buffers) for t in source()), torch.zeros(()))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        return model(torch.zeros(images, 3, *size, device=tensor.device))


def takes(model: nn.Module, size: tuple[int, int]) -> bool:
    """Whether a network runs on an image of a size (H, W)."""
    try:
        _evaluated(model, size)
    except REFUSALS:
        return False
    return True


def working_sizes(model: nn.Module, size: tuple[int, int]) -> list[tuple[int, int]]:
    """The nearest sizes (H, W) that a network takes: at most one smaller than `size` and one larger."""
    found: dict[bool, tuple[int, int]] = {}
    for trial in sorted(set(_trials(size)), key=lambda s: _distance(s, size)):
        larger = trial[0] * trial[1] >= size[0] * size[1]
        if larger in found:
            continue
        if takes(model, trial):
            found[larger] = trial
    return [found[larger] for larger in sorted(found)]


def _trials(size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    rounds: tuple[Callable[[float], int], ...] = (math.floor, round, math.ceil)
    for step in _STEPS:
        for rounded in rounds:
            trial = tuple(max(step, step * rounded(side / step)) for side in size)
            if trial != size:
                yield trial[0], trial[1]
    yield from ((side, side) for side in (*_SQUARES, *(s for s in (32, 64, 128) if s > max(size))))


def _distance(one: tuple[int, int], other: tuple[int, int]) -> float:
    return sum(abs(math.log(a / b)) for a, b in zip(one, other, strict=True))
