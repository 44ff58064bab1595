"""Where modules are held in a model, so that they can be replaced in each of these places."""

from __future__ import annotations

from typing import Any

from torch import nn

from binarize.graph.hooks import take_hooks


class Places:
    """Where each module is held; found once, so that many replacements need one search only."""

    def __init__(self, model: nn.Module) -> None:
        self._places: dict[nn.Module, list[tuple[Any, Any]]] = {}
        for parent in model.modules():
            for name, child in parent._modules.items():
                if child is not None:
                    self._places.setdefault(child, []).append((parent._modules, name))
            for value in vars(parent).values():  # lists of layers that a forward loops over
                if type(value) in (list, dict):
                    items = enumerate(value) if type(value) is list else value.items()
                    for key, held in items:
                        if isinstance(held, nn.Module):
                            self._places.setdefault(held, []).append((value, key))

    def replace(self, old: nn.Module, new: nn.Module) -> None:
        """Replace `old` by `new` everywhere, under all of its names."""
        places = self._places.pop(old, [])
        for holder, key in places:
            holder[key] = new
        self._places.setdefault(new, []).extend(places)
        take_hooks(new, old)
