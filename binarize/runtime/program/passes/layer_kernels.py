"""The kernels of a packed layer in a program's graph, for passes that have to know what they can do."""

from __future__ import annotations

from typing import Any

from torch import fx

from binarize.runtime import ops
from binarize.runtime.program.graph import ProgramGraph


def kernels_of(program: ProgramGraph, node: fx.Node) -> Any:
    """The `NativeLayer` or `NativePlanes` of a call of `ops.layer`.

    None where torch computes the layer, or its weights are not known.
    """
    _, weights, vectors, spec, inner, _ = node.args
    held = [program.tensor(value) for value in (weights, vectors)]
    given: Any = inner
    arrays = [program.tensor(value) for value in given]
    missing = any(a is None and value is not None for a, value in zip(arrays, given, strict=True))
    if held[0] is None or held[1] is None or missing:
        return None
    return ops.native_of(held[0], held[1], str(spec), arrays, node.kwargs)
