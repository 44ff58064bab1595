"""Checks of tensors, and their addresses and strides for the library."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from binarize.errors import NativeError
from binarize.native.structs import Map


def checked(
    name: str,
    x: Tensor,
    shape: Sequence[int | None],
    dtype: torch.dtype = torch.float32,
    *,
    contiguous: bool = True,
) -> Tensor:
    """`x`, detached and made contiguous, if it is a CPU tensor of this shape (None: any size) and dtype.

    Raises:
        NativeError: another shape, dtype or device.
    """
    fits = x.dim() == len(shape) and all(w in (None, n) for n, w in zip(x.shape, shape, strict=True))
    if not fits or x.dtype != dtype or x.device.type != "cpu":
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise NativeError(
            f"{name}: {x.dtype} of shape {tuple(x.shape)} on {x.device}; expected {dtype} of ({wanted}) "
            "on cpu."
        )
    return x.detach().contiguous() if contiguous else x.detach()


def vector(name: str, x: Tensor | None, *shape: int) -> Tensor | None:
    """`checked` for an optional float32 tensor."""
    return None if x is None else checked(name, x, shape)


def output_vector(name: str, x: Tensor | None, *shape: int) -> Tensor | None:
    """`vector` for a tensor that the library writes to.

    Raises:
        NativeError: a tensor that does not fit or is not contiguous: a copy would get the values.
    """
    if x is not None and not x.is_contiguous():
        raise NativeError(f"{name} is written to; expected it to be contiguous.")
    return vector(name, x, *shape)


def own_vector(name: str, x: Tensor | None, *shape: int) -> Tensor | None:
    """A copy of `vector`, which no other code can move or free: for addresses that outlive a call."""
    found = vector(name, x, *shape)
    return None if found is None else found.clone()


def address(x: Tensor | None) -> int | None:
    """The address of the first element; None for None."""
    return None if x is None else x.data_ptr()


def channels_last(x: Tensor) -> Tensor:
    """(N, C, H, W) with its channels next to each other; other strides are not changed."""
    return x if x.shape[1] == 1 or x.stride(1) == 1 else x.contiguous(memory_format=torch.channels_last)


def empty_map(shape: Sequence[int]) -> Tensor:
    """(N, C, H, W) float32 on the CPU, channels-last."""
    return torch.empty(shape, memory_format=torch.channels_last, dtype=torch.float32, device="cpu")


def counted(shape: Sequence[int]) -> Tensor:
    """As `empty_map`, but never an inference tensor, so that torch counts its changes in place."""
    if not torch.is_inference_mode_enabled():
        return empty_map(shape)
    with torch.inference_mode(False):
        return empty_map(shape)


def map_of(x: Tensor | None) -> Map:
    """The library's structure for (N, C, H, W): address and strides."""
    if x is None:
        return Map()
    n, c, h, w = x.stride()
    return Map(x.data_ptr(), n, h, w, 1 if x.shape[1] == 1 else c)


def pair(name: str, value: int | Sequence[int]) -> tuple[int, int]:
    """(h, w) from one number or two.

    Raises:
        NativeError: another number of entries.
    """
    two = (value, value) if isinstance(value, int) else tuple(value)
    if len(two) != 2:
        raise NativeError(f"{name}={value!r}: expected one number or two, (h, w).")
    return int(two[0]), int(two[1])
