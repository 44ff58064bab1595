"""Which layers a plan counts as final, output by output, and whether that is right."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from binarize.coverage.trials import CheckError
from binarize.graph import Plan
from binarize.graph.plan_sentences import Code


def outputs_of(made: Plan) -> tuple[dict[str, Any], ...]:
    """The outputs of a network as JSON holds them: name, final layers, those kept, functions behind them."""
    return tuple(
        {
            "name": output.name,
            "final": list(output.final),
            "kept": list(output.kept),
            "functions": list(output.functions),
        }
        for output in made.outputs
    )


def final_layers(made: Plan, heads: Sequence[str], beside: Sequence[str]) -> None:
    """Check that the heads stay float, and that no other layer stays float as a final one.

    Args:
        made: the plan.
        heads: globs of the layers that give the outputs.
        beside: globs of layers that may count as final or not.

    Raises:
        CheckError: naming the layers.
    """
    binary = [row.name for row in made.converted if _matches(row.name, heads)]
    if binary:
        raise CheckError(f"final layers made binary: {', '.join(binary)}")
    kept = dict.fromkeys(name for output in made.outputs for name in output.kept)
    kept |= dict.fromkeys(row.name for row in made.rows if row.code is Code.FINAL)
    extra = [name for name in kept if not _matches(name, (*heads, *beside))]
    if extra:
        raise CheckError(f"kept as final layers, but they are not: {', '.join(extra)}")


def _matches(name: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)
