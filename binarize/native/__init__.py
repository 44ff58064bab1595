"""Kernels for packed networks: bits instead of floats, XNOR and popcount instead of multiplications.

    plane = native.pack(x, add=-threshold, border=(1, 1))
    weights = native.pack_weights(weight, padding=(1, 1))
    y = native.conv(plane, weights, native.Epilogue(mul=scale, add=shift, bypass=x))

The kernels are a shared library (`native/binarize.h`) that is loaded at the first call, after torch, whose
threads it uses. Where it could not be built, these functions raise `NativeError`, and packed layers run on
torch (`binarize.runtime`), exact but slower. `features()` says what this machine has. Results are the same on
every instruction set.

A module of this package is imported when one of its names is used for the first time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from binarize.native.convolution import conv, conv_int, conv_scaled
    from binarize.native.epilogue import Activation, Epilogue, Tail
    from binarize.native.instruction_set import peak, set_isa
    from binarize.native.library import Features, available, features
    from binarize.native.packing import (
        channel_sums,
        pack,
        pack_depthwise,
        pack_scaled,
        pack_weights,
        unpack,
    )
    from binarize.native.stem import conv_stem
    from binarize.native.transposed import conv_transposed, pack_transposed
    from binarize.native.types import BitPlane, MaxPool, Norm, PackedWeights, Resize, TransposedWeights

_MODULES = {
    "convolution": ("conv", "conv_int", "conv_scaled"),
    "epilogue": ("Activation", "Epilogue", "Tail"),
    "instruction_set": ("peak", "set_isa"),
    "library": ("Features", "available", "features"),
    "packing": (
        "channel_sums",
        "pack",
        "pack_depthwise",
        "pack_scaled",
        "pack_weights",
        "unpack",
    ),
    "stem": ("conv_stem",),
    "transposed": ("conv_transposed", "pack_transposed"),
    "types": ("BitPlane", "MaxPool", "Norm", "PackedWeights", "Resize", "TransposedWeights"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Activation",
    "BitPlane",
    "Epilogue",
    "Features",
    "MaxPool",
    "Norm",
    "PackedWeights",
    "Resize",
    "Tail",
    "TransposedWeights",
    "available",
    "channel_sums",
    "conv",
    "conv_int",
    "conv_scaled",
    "conv_stem",
    "conv_transposed",
    "features",
    "pack",
    "pack_depthwise",
    "pack_scaled",
    "pack_transposed",
    "pack_weights",
    "peak",
    "set_isa",
    "unpack",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
