"""Deployed networks that earlier versions pickled: each layer works for itself again.

Layers had worked for their neighbours: their classes had been exchanged, and activations had been taken over
by the packed layer in front.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from torch import nn

from binarize.layers import BiasPReLU, Maxout, RPReLU

_STEM = {"_BatchNorm2d": nn.BatchNorm2d, "_ReLU": nn.ReLU, "_ReLU6": nn.ReLU6, "_Hardtanh": nn.Hardtanh,
         "_PReLU": nn.PReLU, "_BiasPReLU": BiasPReLU, "_RPReLU": RPReLU, "_Maxout": Maxout,
         "_MaxPool2d": nn.MaxPool2d, "StemConv2d": nn.Conv2d}  # fmt: skip
_CLASSES = {"binarize.runtime.stem": _STEM, "binarize.runtime.pointwise": {"PointwiseConv2d": nn.Conv2d}}
_ADDED = ("parts", "sums_for", "_threads", "_ready")


def _becomes(name: str, known: type[nn.Module]) -> type[nn.Module]:
    """A class whose pickled objects become objects of `known`."""

    def set_state(self: Any, state: dict[str, Any]) -> None:
        self.__class__ = known
        self.__setstate__({key: value for key, value in state.items() if key not in _ADDED})

    return type(name, (known,), {"__setstate__": set_state})


class _Link:
    """Concatenated two layers."""


class _Parts(tuple):
    """What stood behind a stem's convolution."""

    def __new__(cls, *parts: Any) -> _Parts:
        return super().__new__(cls, parts)


def register() -> None:
    """Make the classes importable at the paths that pickles name."""
    for path, classes in _CLASSES.items():
        module = ModuleType(path, "A module path of an earlier version; see binarize.runtime.earlier.")
        vars(module).update({name: _becomes(name, known) for name, known in classes.items()})
        sys.modules.setdefault(path, module)
    vars(sys.modules["binarize.runtime.stem"])["Parts"] = _Parts
    statistics = ModuleType("binarize.runtime.statistics")
    vars(statistics)["Link"] = _Link
    sys.modules.setdefault("binarize.runtime.statistics", statistics)


def own_activations(state: dict[str, Any]) -> dict[str, Any]:
    """The state of a packed layer, whose network gets back the activations that are still in it."""
    names = ("_signs", "_signs_of", "_kernels", "_quick", "_lazy", "sums_for", "sums_from", "_after")
    kept = {key: value for key, value in state.items() if key not in names}
    lost = [module for module in state.get("_after", []) if not isinstance(module, (BiasPReLU, Maxout))]
    if lost:  # an Identity took its place
        kept["_behind"] = lost
    return kept
