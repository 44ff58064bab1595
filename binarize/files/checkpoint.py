"""Float weights from other people's files: safetensors, or PyTorch's own with `weights_only`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from binarize.errors import ConfigError, FormatError
from binarize.files.compare import difference
from binarize.files.container import check_readable, read
from binarize.files.header import ENTRY, PackedHeader, loads
from binarize.files.source import first_line

_TORCH = (".pth", ".pt", ".bin", ".ckpt", ".tar")
# Entries that training scripts put weights under; the averaged weights first, as timm prefers them.
_WRAPPERS = ("model_ema", "state_dict_ema", "state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.", "model.")
_COUNTER = "num_batches_tracked"  # absent from old checkpoints, and without effect on the output


@dataclass(frozen=True, kw_only=True)
class CheckpointReport:
    """What was loaded.

    Attributes:
        entry: the entry of the file that the weights stood in ("state_dict"), or "" for the file itself.
        prefix: what was taken off every name ("module."), or "".
        tensors: how many.
    """

    entry: str
    prefix: str
    tensors: int


def load_checkpoint(model: nn.Module, path: str | os.PathLike[str]) -> CheckpointReport:
    """Load float weights into `model`, all or none.

    Args:
        model: the float model; its weights are overwritten, in its own dtypes.
        path: `.safetensors`, or `.pth`, `.pt`, `.bin`, `.ckpt`, `.tar` (read by `torch.load` with
            `weights_only=True`). Entries such as `state_dict` and prefixes such as `module.` are looked
            through.

    Raises:
        ConfigError: if there is no such file, or its name ends otherwise.
        FormatError: if it cannot be read, or its tensors are not exactly the model's.
    """
    file = check_readable(path)
    where = repr(str(path))
    entry, found = _tensors(file, where)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    prefix, found = _without_prefix(found, expected)
    expected = {
        name: shape for name, shape in expected.items() if name in found or not name.endswith(_COUNTER)
    }
    tied = _tied(model)
    expected = {
        name: shape for name, shape in expected.items() if name in found or tied.get(name) not in found
    }
    problem = difference(expected, found)
    if problem:
        raise FormatError(_explained(model, where, expected, found, problem))
    model.load_state_dict(found, strict=False)
    return CheckpointReport(entry=entry, prefix=prefix, tensors=len(found))


def _tensors(file: Path, where: str) -> tuple[str, dict[str, Tensor]]:
    """The weights in a file, and the entry that they stood in."""
    suffix = file.suffix.lower()
    if suffix == ".safetensors":
        return "", _from_safetensors(file, where)
    if suffix not in _TORCH:
        known = ", ".join((".safetensors", *_TORCH))
        raise ConfigError(
            f"checkpoint {where}: cannot tell its format; expected a name that ends in {known}."
        )
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConfigError(f"cannot read {where}: {error}.") from error
    except Exception as error:  # the errors of zip, pickle and tensor reading
        raise FormatError(
            f"{where} cannot be read as a PyTorch checkpoint of plain weights (truncated, corrupted, or "
            f"holding objects that only unsafe unpickling would read): {first_line(error)}"
        ) from error
    entry = ""
    while isinstance(content, Mapping):
        wrapper = next((key for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if wrapper is None:
            break
        entry = f"{entry}.{wrapper}".lstrip(".")
        content = content[wrapper]
    if not isinstance(content, Mapping):
        raise FormatError(f"{where} holds a {type(content).__name__}, expected tensors by name.")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        names = ", ".join(str(name) for name in list(content)[:5]) or "nothing"
        raise FormatError(f"{where} holds no weights: found {names}; expected tensors by name.")
    return entry, tensors


def _from_safetensors(file: Path, where: str) -> dict[str, Tensor]:
    container = read(file)
    tensors = dict(container.tensors)
    if ENTRY in container.metadata:
        header, _ = loads(container.metadata, where)
        if isinstance(header, PackedHeader):
            raise FormatError(
                f"{where} is a packed file: its latent weights are gone, one bit of each is left, from which "
                "nothing can be trained. Give the file that it was exported from; to use it as it is, read "
                "it with binarize.load."
            )
        if header.plan is not None:
            raise FormatError(
                f"{where} holds a converted model, expected float weights; read it with binarize.load."
            )
        tensors |= {name: tensors[target] for name, target in header.aliases.items() if target in tensors}
    if not tensors:
        raise FormatError(f"{where} holds no tensors.")
    return tensors


def _without_prefix(found: dict[str, Tensor], expected: Mapping[str, Any]) -> tuple[str, dict[str, Tensor]]:
    """`found` without the prefixes that all of its names carry, as long as that makes more names match."""
    taken = ""
    stripped = found
    for _ in _PREFIXES:
        prefix = next((p for p in _PREFIXES if all(name.startswith(p) for name in stripped)), None)
        if prefix is None:
            break
        taken += prefix
        stripped = {name.removeprefix(prefix): tensor for name, tensor in stripped.items()}
    if len(stripped.keys() & expected.keys()) > len(found.keys() & expected.keys()):
        return taken, stripped
    return "", found


def _tied(model: nn.Module) -> dict[str, str]:
    """Name -> first name of the same parameter, for parameters that have several names."""
    first: dict[int, str] = {}
    tied: dict[str, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), name) != name:
            tied[name] = first[id(parameter)]
    return tied


def _explained(
    model: nn.Module,
    where: str,
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, Tensor],
    problem: str,
) -> str:
    """The message; a classifier of another size, the most frequent case, is named with its remedy."""
    config: Any = getattr(model, "pretrained_cfg", None)
    names = config.get("classifier") if isinstance(config, Mapping) else None
    heads = [names] if isinstance(names, str) else list(names or ())
    others = {
        name for name in expected.keys() | found.keys() if not name.startswith(tuple(f"{h}." for h in heads))
    }
    same = all(n in expected and n in found and tuple(found[n].shape) == expected[n] for n in others)
    for head in heads:
        weight = found.get(f"{head}.weight")
        shape = expected.get(f"{head}.weight")
        if same and weight is not None and shape and weight.dim() and weight.shape[0] != shape[0]:
            classes = weight.shape[0]
            return (
                f"checkpoint {where}: its classifier {head!r} has {classes} classes, the model's has "
                f"{shape[0]}. Build the model with '?num_classes={classes}'."
            )
    return f"checkpoint {where} does not fit {type(model).__name__}: {problem}."
