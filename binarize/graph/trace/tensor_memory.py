"""Tensors and their memory: where each lay, what it held, and how both are restored."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from binarize.graph.trace.containers import refill, same_attributes


@dataclass(slots=True)
class HeldTensor:
    """A tensor as it was: its memory, gradient, attributes and hooks.

    Attributes:
        tensor: itself.
        data: another tensor in the same memory, or None.
        storage: the number of its memory, see `storage_of`.
        grad: of a leaf.
        trained: its `requires_grad`.
        attributes: of its instance.
        hooks: its table of backward hooks.
        hooked: what that table held.
    """

    tensor: Tensor
    data: Tensor | None
    storage: int | None
    grad: Tensor | None
    trained: bool
    attributes: dict[str, Any]
    hooks: Any
    hooked: dict[Any, Any]

    def moved(self) -> bool:
        """Whether the tensor has other memory than before."""
        now: Any = self.tensor
        then: Any = self.data
        if then is None:
            return False
        same = now.dtype == then.dtype and now.shape == then.shape and storage_of(now)[0] == self.storage
        return not same or (
            self.storage is not None
            and (now.stride() != then.stride() or now.storage_offset() != then.storage_offset())
        )

    def restore(self) -> None:
        """Give it back its memory, gradient, attributes and hooks; `HeldMemory` has the values."""
        tensor: Any = self.tensor
        if self.data is not None and self.moved():
            tensor.data = self.data
        if tensor.is_leaf:
            if tensor.requires_grad != self.trained:
                tensor.requires_grad_(self.trained)
            if tensor.grad is not self.grad:
                tensor.grad = self.grad
        if tensor._backward_hooks is not self.hooks or dict(self.hooks or ()) != self.hooked:
            tensor._backward_hooks = self.hooks
            if self.hooks is not None:
                refill(self.hooks, list(self.hooked.items()))
        if not same_attributes(tensor.__dict__, self.attributes):
            tensor.__dict__.clear()
            tensor.__dict__.update(self.attributes)


@dataclass(slots=True)
class HeldMemory:
    """A piece of memory that tensors share.

    Attributes:
        storage: torch's object for it.
        size: its bytes when it was found.
        copy: the values that it had when `keep` was called, as bytes; None before that.
    """

    storage: torch.UntypedStorage
    size: int
    copy: Tensor | None = None

    def keep(self) -> None:
        """Copy the values, if that was not done before."""
        if self.copy is None and self.size:
            with without_modes():
                self.copy = _bytes_of(self.storage).clone()

    def unchanged(self) -> bool:
        """Whether it has its size, and the values that were kept, if they were."""
        if self.storage.nbytes() != self.size:
            return False
        return self.copy is None or torch.equal(_bytes_of(self.storage), self.copy)

    def restore(self) -> None:
        """Give it back its size and the values that were kept."""
        if self.copy is not None and not self.unchanged():
            if self.storage.nbytes() != self.size:
                self.storage.resize_(self.size)
            _bytes_of(self.storage).copy_(self.copy)


def storage_of(tensor: Tensor) -> tuple[int | None, torch.UntypedStorage | None]:
    """The number of a tensor's memory and torch's object for it; None where it has none (sparse ones)."""
    try:
        storage = tensor.untyped_storage()
        return storage._cdata, storage
    except Exception:  # whatever a class of tensors raises instead
        return None, None


@contextlib.contextmanager
def without_modes() -> Iterator[None]:
    """Without the modes that record runs or fake them."""
    with _disable_current_modes(), torch._C.DisableTorchFunction():
        yield


def _bytes_of(storage: torch.UntypedStorage) -> Tensor:
    """A tensor of bytes in that memory: writing to it changes no version counter of another tensor."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)  # type: ignore[call-overload]
