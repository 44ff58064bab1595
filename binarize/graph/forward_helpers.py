"""Functions that generated forwards call: checks of arguments, and in-place operators as steps of a graph."""

from __future__ import annotations

import operator
from typing import Any

from binarize.errors import RewriteError


def require_default(value: Any, default: Any, where: str) -> None:
    """Raise if `value` is not the default that a rewritten forward was made for.

    Raises:
        RewriteError: naming the parameter and what to do.
    """
    plain = type(value) is type(default) and isinstance(value, (bool, int, float, str, tuple))
    if value is not default and not (plain and value == default):
        raise RewriteError(
            f"{where}: the converted forward was made for the default {default!r}; "
            "convert with example_inputs that hold this argument to use it."
        )


def require_value(value: Any, where: str) -> None:
    """Raise if `value` is None but the rewritten forward was made for a value, because it tests for None.

    Raises:
        RewriteError: naming the parameter and what to do.
    """
    if value is None:
        raise RewriteError(
            f"{where}: got None, the converted forward was made for a value; "
            "convert with example_inputs that leave this argument out to call it without."
        )


def require_list(value: Any, kind: str, length: int, where: str) -> None:
    """Raise if `value` is not the kind of list that a rewritten forward was made for.

    Raises:
        RewriteError: naming the parameter and what to do.
    """
    if type(value).__name__ != kind or len(value) != length:
        given = (
            f"{type(value).__name__} of {len(value)}" if hasattr(value, "__len__") else type(value).__name__
        )
        raise RewriteError(
            f"{where}: got a {given}, the converted forward was made for a {kind} of {length}; "
            "convert with example_inputs like the model's later inputs."
        )


def require_extra(given: dict[str, Any], constants: dict[str, Any], tensors: list[str], where: str) -> None:
    """Raise if `**kwargs` hold other values than a rewritten forward was made for; None counts as absent.

    Raises:
        RewriteError: naming the argument and what to do.
    """
    for name in (*tensors, *constants, *given):
        value, expected = given.get(name), constants.get(name)
        if name in tensors and value is None:
            raise RewriteError(f"{where}: {name!r} is missing, which the converted forward was made for.")
        if name not in tensors and not (type(value) is type(expected) and value == expected):
            made_for = repr(expected) if name in constants else "none"
            raise RewriteError(
                f"{where}: got {name}={_short(value)}, the converted forward was made for {made_for}; "
                "convert with example_inputs with which this argument is passed to use it."
            )


def _short(value: Any) -> str:
    plain = isinstance(value, (bool, int, float, str, type(None)))
    return repr(value) if plain else f"a {type(value).__name__}"


def iadd(a: Any, b: Any) -> Any:
    """`a += b` as a step; operator.iadd would be printed as the statement, which rebinds a number's name."""
    return operator.iadd(a, b)


def isub(a: Any, b: Any) -> Any:
    """`a -= b`; see `iadd`."""
    return operator.isub(a, b)


def imul(a: Any, b: Any) -> Any:
    """`a *= b`; see `iadd`."""
    return operator.imul(a, b)


def itruediv(a: Any, b: Any) -> Any:
    """`a /= b`; see `iadd`."""
    return operator.itruediv(a, b)
