"""What a backward pass needs, kept in files: models whose activations do not fit in memory can be trained."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

_LARGE = 1 << 20  # elements; smaller ones cost more as files than they take


@contextlib.contextmanager
def saved_in_files(beyond: int | None, folder: str | None = None) -> Iterator[None]:
    """Let autograd keep large tensors in mapped files, which the system may write out.

    They are gone as soon as no graph needs them.

    Args:
        beyond: bytes to keep in memory before the first file is written; None for all.
        folder: where they go; the system's temporary folder by default.
    """
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "saved"
        kept = 0

        def pack(tensor: Tensor) -> Tensor | tuple[Tensor, torch.Size]:
            nonlocal kept
            if beyond is None or (tensor.is_leaf and tensor.requires_grad):  # a weight, kept anyway
                return tensor
            if tensor.numel() < _LARGE or kept + tensor.nbytes <= beyond:
                kept += tensor.nbytes
                return tensor
            flat = torch.from_file(str(path), shared=True, size=tensor.numel(), dtype=tensor.dtype)
            path.unlink()  # the mapping keeps the file until it ends itself
            flat.copy_(tensor.detach().reshape(-1))
            return flat, tensor.shape

        def unpack(packed: Tensor | tuple[Tensor, torch.Size]) -> Tensor:
            return packed if isinstance(packed, Tensor) else packed[0].view(packed[1])

        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            yield
