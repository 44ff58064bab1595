"""Fields of a JSON object that may hold anything: each is taken out and checked."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from binarize.errors import FormatError

_LARGEST = 2**31 - 1


class Fields:
    """The fields of one object; each method takes one out, and fails with a `FormatError`.

    Args:
        given: a value from JSON.
        where: names file and layer in messages.
    """

    def __init__(self, given: Any, where: str) -> None:
        self.where = where
        self.given = dict(self.mapping("the layer", given))

    def padding(self, n: int) -> tuple[tuple[int, int], ...]:
        """Low and high side of each of `n` dims; 0 if it is not there."""
        given = self.given.pop("padding", [[0, 0]] * n)
        right = isinstance(given, list) and len(given) == n
        if not right or not all(isinstance(pair, list) and len(pair) == 2 for pair in given):
            self.fail("padding", given, f"{n} pairs of numbers")
        return tuple((self.whole("padding", low, 0), self.whole("padding", high, 0)) for low, high in given)

    def ranges(self, name: str, channels: int) -> tuple[tuple[int, int], ...]:
        """Pairs [start, stop) of channels, in their order, apart from each other and not of all channels."""
        given = self.given.pop(name, [])
        pairs: list[Any] = given if isinstance(given, list) else [None]
        flat: list[Any] = [
            n for pair in pairs for n in (pair if isinstance(pair, list) and len(pair) == 2 else [None])
        ]
        whole = all(isinstance(n, int) and not isinstance(n, bool) for n in flat)
        rising = whole and all(a < b for a, b in itertools.pairwise(flat))
        inside = rising and (not flat or (flat[0] >= 0 and flat[-1] <= channels and flat != [0, channels]))
        if not inside:
            self.fail(name, given, f"rising pairs of channels, some of {channels}")
        return tuple((start, stop) for start, stop in pairs)

    def part(self, name: str) -> Mapping[str, Any] | None:
        """An object of plain values with a `kind`; None if it is not there."""
        given = self.given.pop(name, None)
        if given is None:
            return None
        fields = self.mapping(name, given)
        plain = all(isinstance(value, (str, int, float)) for value in fields.values())
        if not isinstance(fields.get("kind"), str) or not plain:
            self.fail(name, given, "an object with a 'kind'")
        return dict(fields)

    def numbers(self, name: str, default: tuple[int, ...] | None, *, least: int = 0) -> tuple[int, ...]:
        """One whole number per spatial dim."""
        if name not in self.given and default is not None:
            return default
        given = self.given.pop(name, None)
        if not isinstance(given, list) or (default is not None and len(given) != len(default)):
            self.fail(name, given, "one number per spatial dim")
        return tuple(self.whole(name, value, least) for value in given)

    def number(self, name: str, *, least: int, most: int = _LARGEST, default: int | None = None) -> int:
        """A whole number."""
        return self.whole(name, self.given.pop(name, default), least, most)

    def whole(self, name: str, value: Any, least: int, most: int = _LARGEST) -> int:
        """`value`, if it is a whole number within these bounds."""
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self.fail(name, value, f"a whole number from {least} to {most}")
        return value

    def flag(self, name: str) -> bool:
        """True or false; false if it is not there."""
        value = self.given.pop(name, False)
        if not isinstance(value, bool):
            self.fail(name, value, "true or false")
        return value

    def choice(self, name: str, choices: tuple[str, ...], **default: Any) -> Any:
        """One of these texts; `default`, if there is one, where it is not there."""
        if name not in self.given and default:
            return default["default"]
        value = self.given.pop(name, None)
        if not isinstance(value, str) or value not in choices:
            self.fail(name, value, f"one of {list(choices)}")
        return value

    def mapping(self, name: str, value: Any) -> Mapping[str, Any]:
        """`value`, if it is an object."""
        if not isinstance(value, dict):
            self.fail(name, value, "an object")
        return value

    def fail(self, name: str, value: Any, expected: str) -> Any:
        """Raise the error that names a field, its value and what was expected."""
        raise FormatError(f"{self.where}: {name} is {str(value)[:60]}, expected {expected}.")
