"""The state file: all that a training needs to continue bit for bit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from binarize.errors import FormatError, TrainingError
from binarize.files import container
from binarize.training.dtensor import gathered, placed_like
from binarize.training.metadata import STATE_ENTRY
from binarize.training.progress import Progress

_VERSION = 2
"""1: without `planned`, `best` and `changes` of the progress."""


def collect_state(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: dict[str, Tensor] | None,
    *,
    wanted: bool = True,
) -> dict[str, Tensor]:
    """Copies on the CPU of all tensors that a training needs to continue, whole.

    If the model is split between processes, all of them have to call this.

    Args:
        model: the network.
        optimizer: of its parameters.
        average: of them.
        wanted: False for a process that only takes part in the gathering; it gets none.
    """
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    for name, key, value in _moments(model, optimizer):
        tensors[f"optimizer/{key}/{name}"] = value
    for name, tensor in (average or {}).items():
        tensors[f"average/{name}"] = tensor
    found = ((name, gathered(t.detach())) for name, t in tensors.items())
    return {name: t.to("cpu", copy=True).contiguous() for name, t in found if wanted}


def save_state(path: Path, recipe: dict[str, Any], progress: Progress, state: dict[str, Tensor]) -> None:
    """Write the file, atomically; the last good one stays if that fails.

    Args:
        path: the file.
        recipe: of the training, resolved.
        progress: where it is.
        state: of `collect_state`.

    Raises:
        ConfigError: it cannot be written, or the disk is full.
    """
    entry = {"version": _VERSION, "recipe": recipe, "progress": vars(progress)}
    container.write(path, state, {STATE_ENTRY: json.dumps(entry)})


def read_recipe(path: Path) -> dict[str, Any]:
    """The recipe in a state file.

    Raises:
        ConfigError: there is no such file.
        FormatError: it is not a state file.
    """
    return _entry(container.read_metadata(path), path)["recipe"]


def read_progress(path: Path) -> Progress:
    """Where the training in a state file is.

    Raises:
        ConfigError: there is no such file.
        FormatError: it is not a state file.
    """
    return Progress(**_entry(container.read_metadata(path), path)["progress"])


def restore_state(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: dict[str, Tensor] | None
) -> Progress:
    """Put everything back, bit for bit.

    Raises:
        ConfigError: there is no such file.
        FormatError: it is not a state file, or belongs to another network.
    """
    read = container.read(path)
    entry = _entry(read.metadata, path)
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "average": {}}
    for name, tensor in read.tensors.items():
        kind, _, rest = name.partition("/")
        parts.setdefault(kind, {})[rest] = tensor
    own = model.state_dict()
    try:
        # what does not fit is for load_state_dict to name
        fitting = {
            n: placed_like(t, own[n]) if n in own and own[n].shape == t.shape else t
            for n, t in parts["model"].items()
        }
        model.load_state_dict(fitting)
    except RuntimeError as error:
        raise FormatError(f"{path} is of another network: {str(error).splitlines()[0]}") from error
    names = {id(p): name for name, p in model.named_parameters()}
    kept: dict[str, dict[str, Tensor]] = {}
    for place, stored in parts["optimizer"].items():
        key, _, name = place.partition("/")
        kept.setdefault(name, {})[key] = stored
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            # in the weights' own memory format, which the fused optimizer takes for granted
            found = {
                key: stored if key == "step" else placed_like(stored, parameter)
                for key, stored in kept.get(names[id(parameter)], {}).items()
            }
            if found:
                optimizer.state[parameter] = found
    if average is not None:
        for name, tensor in average.items():
            if name not in parts["average"]:
                raise FormatError(f"{path} holds no average of {name}: it was made without training.ema.")
            tensor.copy_(placed_like(parts["average"][name], tensor))
    return Progress(**entry["progress"])


def _moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, str, Tensor]]:
    names = {id(p): name for name, p in model.named_parameters()}
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if not isinstance(value, Tensor):
                raise TrainingError(f"the optimizer keeps {key}, which is not a tensor")
            yield names[id(parameter)], key, value


def _entry(metadata: dict[str, str], path: Path) -> dict[str, Any]:
    if STATE_ENTRY not in metadata:
        raise FormatError(f"{path} is not a training state: its header has no {STATE_ENTRY!r} entry.")
    try:
        entry = json.loads(metadata[STATE_ENTRY])
        version = entry["version"]
        whole = isinstance(entry["recipe"], dict) and isinstance(entry["progress"]["step"], int)
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path} is corrupted: its entry {STATE_ENTRY} is not a training state.") from error
    if not whole or not isinstance(version, int):
        raise FormatError(f"{path} is corrupted: its {STATE_ENTRY!r} entry is not a training state.")
    if version > _VERSION:
        raise FormatError(f"{path} has version {version}; this binarize reads up to {_VERSION}.")
    return entry
