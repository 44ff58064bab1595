"""binarize: turn any timm or custom PyTorch network into a binary neural network.

The public names are resolved at first use (PEP 562), so that `import binarize` costs nothing: neither torch
nor timm is imported before something needs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from binarize import functional, inspect, layers, methods, networks, runtime, testing
    from binarize.accounting import summary
    from binarize.calibration import calibrate
    from binarize.files import load, save
    from binarize.graph import Policy, apply, plan
    from binarize.layers import set_progress
    from binarize.methods import binary_layer, register_method
    from binarize.runtime import deploy
    from binarize.training.prediction import predict

__version__ = "0.1.0"

__all__ = [
    "Policy",
    "__version__",
    "apply",
    "binary_layer",
    "calibrate",
    "deploy",
    "functional",
    "inspect",
    "layers",
    "load",
    "methods",
    "networks",
    "plan",
    "predict",
    "register_method",
    "runtime",
    "save",
    "set_progress",
    "summary",
    "testing",
]

_MODULES = ("functional", "inspect", "layers", "methods", "networks", "runtime", "testing")
_ORIGIN = {
    "Policy": "binarize.graph",
    "apply": "binarize.graph",
    "binary_layer": "binarize.methods",
    "calibrate": "binarize.calibration",
    "deploy": "binarize.runtime",
    "load": "binarize.files",
    "plan": "binarize.graph",
    "predict": "binarize.training.prediction",
    "register_method": "binarize.methods",
    "save": "binarize.files",
    "set_progress": "binarize.layers",
    "summary": "binarize.accounting",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES and name not in _ORIGIN:
        raise AttributeError(f"module 'binarize' has no attribute {name!r}")
    import random

    state = random.getstate()  # rich draws a number when it is imported
    try:
        module = importlib.import_module(_ORIGIN.get(name, f"binarize.{name}"))
    finally:
        random.setstate(state)
    value = module if name in _MODULES else getattr(module, name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
