"""Training and evaluation: by recipes, or of networks and data sets that a caller in Python has.

The public names are resolved at first use, so that importing a part does not import all of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from binarize.training.callbacks import Callback, End, Start, StopTraining
    from binarize.training.evaluation import evaluate
    from binarize.training.fitting import Result, fit
    from binarize.training.loop import StoppedError
    from binarize.training.progress import Event
    from binarize.training.staged import train

__all__ = [
    "Callback",
    "End",
    "Event",
    "Result",
    "Start",
    "StopTraining",
    "StoppedError",
    "evaluate",
    "fit",
    "train",
]

_ORIGIN = {
    "Callback": "callbacks",
    "End": "callbacks",
    "Event": "progress",
    "Result": "fitting",
    "Start": "callbacks",
    "StopTraining": "callbacks",
    "StoppedError": "loop",
    "evaluate": "evaluation",
    "fit": "fitting",
    "train": "staged",
}


def __getattr__(name: str) -> Any:
    if name not in _ORIGIN:
        raise AttributeError(f"module 'binarize.training' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"binarize.training.{_ORIGIN[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
