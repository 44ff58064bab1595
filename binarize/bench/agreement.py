"""Whether a baseline computes what the float network does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from binarize.errors import ConfigError

TOLERANCES = {"float32": 1e-2, "bfloat16": 0.3, "int8": 0.5}
"""The largest `difference` by form of numbers. An output that is zero, or has nothing to do with the wanted
one, differs by 1 or more; int8 forms of networks with random weights by 0.04 to 0.2."""


def difference(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """Root mean square of the error over that of the wanted values, the largest of all outputs.

    Positions where the wanted value is not finite do not count.

    Args:
        found: outputs of a baseline.
        wanted: those of the float network, in the same order.

    Raises:
        ConfigError: another number of outputs, or other shapes.
    """
    shapes, expected = ([tuple(t.shape) for t in tensors] for tensors in (found, wanted))
    if shapes != expected:
        raise ConfigError(f"it gives outputs of shapes {shapes}, expected {expected}")
    worst = 0.0
    for one, other in zip(found, wanted, strict=True):
        finite = other.isfinite()
        right = other[finite].double()
        error = torch.linalg.vector_norm(one[finite].double() - right)
        scale = torch.linalg.vector_norm(right)
        if error > 0 or error.isnan():
            worst = max(worst, float(error / scale) if not error.isnan() else float("inf"))
    return worst


def check(found: Sequence[Tensor], wanted: Sequence[Tensor], form: str) -> float:
    """The `difference`, if it is within the tolerance for this form of numbers.

    Raises:
        ConfigError: it is not.
    """
    measured = difference(found, wanted)
    if measured > TOLERANCES[form]:
        raise ConfigError(
            f"its output is not the float network's: the error is {measured:.2g} times as large as the "
            f"output (root mean squares); {form} may have {TOLERANCES[form]:g}"
        )
    return measured
