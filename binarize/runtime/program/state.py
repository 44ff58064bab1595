"""What a program was made of, and whether it is still that: tensors, modules, attributes and hooks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as of_torch

from binarize.layers.normed import normed_input


class State:
    """A network's attributes at one time.

    What is written past torch (`.data`, NumPy), or into a list or another object that an attribute holds, is
    not seen.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = list(model.modules())
        tables = [t for m in self._modules for t in (m._forward_hooks, m._forward_pre_hooks)]
        # a norm in front of a layer is a hook of our own, which is recorded with the layer
        self._norms = [t for t in tables if t and set(t.values()) == {normed_input}]
        self._norms_before = [dict(t) for t in self._norms]
        self._hooks = [t for t in tables if not any(t is own for own in self._norms)]
        self._tensors = [
            held
            for module in self._modules
            for table in (module._parameters, module._buffers, module.__dict__)
            for held in table.values()
            if isinstance(held, Tensor)
        ]
        self._dicts = [held for module in self._modules for held in _dicts(module)]
        self._before = [dict(held) for held in self._dicts]
        self._places = self._now()

    def occupied(self) -> bool:
        """Whether the modules have to run for now: they have hooks, or some of them are in training mode."""
        hooked = any(self._hooks) or self._norms != self._norms_before
        hooked = hooked or of_torch._global_forward_hooks or of_torch._global_forward_pre_hooks
        # a list is faster than a generator: this runs at each call
        return bool(hooked) or True in [module.training for module in self._modules]

    def same(self) -> bool:
        """Whether the network is what it was."""
        try:  # equal objects are found equal by identity; tensors that are not the same have no truth value
            return self._dicts == self._before and self._now() == self._places
        except RuntimeError:
            return False

    def replaced_forward(self) -> str:
        """The class of a module whose forward was replaced on the instance; nothing if there is none."""
        return next((type(m).__name__ for m in self._modules if "forward" in m.__dict__), "")

    def learns(self) -> bool:
        """Whether a call would be recorded for gradients of the network's own tensors."""
        return torch.is_grad_enabled() and True in [t.requires_grad for t in self._tensors]

    def _now(self) -> list[tuple[int, int]]:
        return [(t.data_ptr(), -1 if t.is_inference() else t._version) for t in self._tensors]


def _dicts(module: nn.Module) -> tuple[dict[str, Any], ...]:
    return module.__dict__, module._parameters, module._buffers, module._modules
