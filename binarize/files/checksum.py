"""Whether a file holds what was written: a checksum over its header and every tensor."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from binarize.errors import FormatError


def verify(fields: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str) -> None:
    """Check the checksum.

    Raises:
        FormatError: if the header or a tensor is not what was written.
    """
    signed = {name: value for name, value in fields.items() if name != "sha256"}
    try:
        right = checksum(signed, tensors) == fields["sha256"]
    except (ValueError, TypeError, RecursionError):  # what we never write: infinite numbers, deep nesting
        right = False
    if not right:
        raise FormatError(
            f"{where} is corrupted: its contents do not match its checksum. Get the file again."
        )


def checksum(fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the canonical JSON of `fields`, then each tensor by name: name, dtype, shape, bytes."""
    digest = hashlib.sha256(canonical_json(fields).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        dtype = str(tensor.dtype).removeprefix("torch.")
        shape = ",".join(map(str, tensor.shape))
        digest.update(f"\0{name}\0{dtype}\0{shape}\0".encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def canonical_json(fields: Mapping[str, Any]) -> str:
    """Fields as the one JSON text that equal fields always give."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
