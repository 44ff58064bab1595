"""What a checkpoint file holds: groups of tensors by name, at whatever depth."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from binarize.errors import ConfigError, FormatError, first_line
from binarize.files.container import read
from binarize.files.header import ENTRY, PackedHeader, loads

TORCH = (".pth", ".pt", ".bin", ".ckpt", ".tar")
_DEPTH = 4  # of entries in entries
_SCALAR = np.float64(0).__reduce__()[0]
# Plain values that training scripts leave beside the weights; nothing runs when they are read.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")),
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]

Entries = dict[str, dict[str, Tensor]]
"""Tensors by name, by the entry that they stand in ("state_dict"); "" is the file itself."""


def read_entries(file: Path, where: str, *, converted: bool = False) -> Entries:
    """All groups of tensors in a file.

    Args:
        file: `.safetensors`, or one of PyTorch's, read with `weights_only=True`.
        where: what to call it in messages.
        converted: also take the file of a converted network.

    Raises:
        ConfigError: its name ends otherwise, or it cannot be read.
        FormatError: it is corrupt, or holds no tensor.
    """
    suffix = file.suffix.lower()
    if suffix == ".safetensors":
        return {"": _from_safetensors(file, where, converted)}
    if suffix not in TORCH:
        known = ", ".join((".safetensors", *TORCH))
        raise ConfigError(
            f"checkpoint {where}: cannot tell its format; expected a name that ends in {known}."
        )
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConfigError(f"cannot read {where}: {error}.") from error
    except Exception as error:  # the errors of zip, pickle and tensor reading
        raise _unreadable(where, error) from error
    if not isinstance(content, Mapping):
        raise FormatError(f"{where} holds a {type(content).__name__}, expected tensors by name.")
    found = dict(_groups(content, ""))
    if not found:
        names = ", ".join(str(name) for name in list(content)[:5]) or "nothing"
        raise FormatError(f"{where} holds no weights: found {names}; expected tensors by name.")
    return found


def _unreadable(where: str, error: Exception) -> FormatError:
    """The error without torch.load's advice, which is to read the file unsafely, whatever it is."""
    if found := re.search(r"GLOBAL (\S+)", str(error)):
        return FormatError(
            f"{where} is not a PyTorch checkpoint of plain weights: it holds a {found[1]}, which only unsafe "
            "unpickling would read. Where you trust it, write it again with "
            "torch.save(model.state_dict(), FILE)."
        )
    reason = re.search(r"WeightsUnpickler error:\s*(\S.*)", str(error))
    return FormatError(
        f"{where} cannot be read as a PyTorch checkpoint of plain weights (truncated, corrupted, or of "
        f"another format): {reason[1].strip() if reason else first_line(error)}"
    )


def _groups(
    content: Mapping[Any, Any], entry: str, depth: int = 0
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        yield entry, tensors
    for name, value in content.items():
        if isinstance(value, Mapping) and depth < _DEPTH:
            yield from _groups(value, f"{entry}.{name}".lstrip("."), depth + 1)


def _from_safetensors(file: Path, where: str, converted: bool) -> dict[str, Tensor]:
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
        if header.plan is not None and not converted:
            raise FormatError(
                f"{where} holds a converted model, expected float weights; read it with binarize.load."
            )
        tensors |= {name: tensors[target] for name, target in header.aliases.items() if target in tensors}
    if not tensors:
        raise FormatError(f"{where} holds no tensors.")
    return tensors
