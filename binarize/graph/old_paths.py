"""Module paths of earlier versions: pickled models name classes and functions by them."""

from __future__ import annotations

import sys
from types import ModuleType

from binarize.graph import forward_helpers, plan
from binarize.graph.decide import policy
from binarize.graph.rewrite import generated_forward, opened_layer

_MOVED = {
    "binarize.graph.openings": (opened_layer,),
    "binarize.graph.output_plan": (plan,),
    "binarize.graph.policy": (policy,),
    "binarize.graph.rewritten": (generated_forward, forward_helpers),
}


def register() -> None:
    """Make objects importable at the old paths that pickles of earlier versions name."""
    for path, modules in _MOVED.items():
        old = ModuleType(path, "A module path of an earlier version; see binarize.graph.old_paths.")
        for module in modules:
            vars(old).update({name: value for name, value in vars(module).items() if name[:2] != "__"})
        sys.modules.setdefault(path, old)
