"""How the tensors of a file differ from those of a model, for messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from binarize.errors import listed


def difference(expected: Mapping[str, tuple[int, ...]], got: Mapping[str, Tensor]) -> str:
    """What is missing, unexpected or of another shape; empty if nothing.

    Args:
        expected: names and shapes of the model.
        got: tensors of the file.
    """
    missing = [name for name in expected if name not in got]
    unexpected = [name for name in got if name not in expected]
    shapes = [
        f"{name} is {_shape(got[name].shape)}, expected {_shape(expected[name])}"
        for name in expected
        if name in got and tuple(got[name].shape) != tuple(expected[name])
    ]
    matching = len(expected) - len(missing) - len(shapes)
    parts = [
        _list("missing", missing),
        _list("unexpected", unexpected),
        _list("of another shape", shapes),
    ]
    if not any(parts):
        return ""
    found = f"{matching} of {len(expected)} tensors match"
    if matching == 0:
        found = f"this looks like another architecture, {found}"
    return "; ".join([found, *filter(None, parts)])


def _list(what: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    return f"{len(names)} {what} ({listed(names, 3)})"


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "a number"
