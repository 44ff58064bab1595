"""What a program was made of, and whether it is still that: tensors, modules, modes and hooks of a network."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as of_torch


class State:
    """A network's tables at one time.

    Values that are written past torch (`.data`, NumPy) are not seen.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: nn.Module) -> None:
        modules = list(model.modules())
        self._modules = modules
        self._tables: list[tuple[dict[str, Any], str, Any]] = []
        self._tensors: list[Tensor] = []
        for module in modules:
            for table in (module._parameters, module._buffers, module._modules):
                for name, held in table.items():
                    self._tables.append((table, name, held))
                    if isinstance(held, Tensor):
                        self._tensors.append(held)
        self._hooks = [table for m in modules for table in (m._forward_hooks, m._forward_pre_hooks)]
        self._sizes = [len(table) for module in modules for table in _tables_of(module)]
        self._places = self._now()

    def why_not(self) -> str:
        """Why there can be no program of this network as it is; nothing if there can."""
        if any(self._hooks):
            return "hooks hang on its modules"
        if any(module.training for module in self._modules):
            return "parts of it are in training mode"
        if any("forward" in module.__dict__ for module in self._modules):
            return "a forward was replaced on an instance"
        return ""

    def current(self) -> bool:
        """Whether the network is what it was."""
        if any(self._hooks) or of_torch._global_forward_hooks or of_torch._global_forward_pre_hooks:
            return False
        if any([module.training for module in self._modules]):
            return False
        if [len(table) for module in self._modules for table in _tables_of(module)] != self._sizes:
            return False
        try:
            if any([table[name] is not held for table, name, held in self._tables]):
                return False
            return self._now() == self._places
        except (KeyError, RuntimeError):
            return False

    def _now(self) -> list[tuple[int, int]]:
        return [(t.data_ptr(), -1 if t.is_inference() else t._version) for t in self._tensors]


def _tables_of(module: nn.Module) -> tuple[dict[str, Any], ...]:
    return module._parameters, module._buffers, module._modules
