"""Tensors for the backward pass in files: for training models whose activations do not fit in memory."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

_LARGE = 1 << 20  # elements; smaller ones cost more as files than in memory


@contextlib.contextmanager
def saved_in_files(beyond: int | None, folder: str | None = None) -> Iterator[None]:
    """Make autograd keep large tensors in mapped files, which the system may write to disk.

    That works only if `folder` is on a disk. Files are deleted as soon as no graph needs them.

    Args:
        beyond: bytes to keep in memory before the first file is written; None for all.
        folder: where they go; the system's temporary folder by default.
    """
    if beyond is None:
        yield
        return
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "saved"
        kept = 0

        def pack(tensor: Tensor) -> _Kept | _Filed:
            nonlocal kept
            weight = tensor.is_leaf and tensor.requires_grad  # kept anyway
            if weight or tensor.numel() < _LARGE or kept + tensor.nbytes <= beyond:
                kept += 0 if weight else tensor.nbytes
                return _Kept(tensor, tensor._version)
            flat = torch.from_file(str(path), shared=True, size=tensor.numel(), dtype=tensor.dtype)
            path.unlink()  # the file exists until the mapping is closed
            flat.copy_(tensor.detach().reshape(-1))
            return _Filed(flat, tensor.shape)

        def unpack(saved: _Kept | _Filed) -> Tensor:
            if isinstance(saved, _Filed):
                return saved.flat.view(saved.shape)
            if saved.tensor._version != saved.version:  # autograd checks this itself only without hooks
                raise RuntimeError("a tensor needed for gradient computation was modified in place")
            return saved.tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            yield


class _Kept(NamedTuple):
    tensor: Tensor
    version: int


class _Filed(NamedTuple):
    flat: Tensor
    shape: torch.Size
