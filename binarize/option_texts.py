"""Options as texts: `--set NAME=VALUE`, and `?name=value&name=value` behind the name of a model.

How a value is read depends on its owner: a method knows the types of its options (`readings`), the
arguments of a model have none (`value_of`), and the settings of a recipe are YAML, as its file is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from binarize.errors import ConfigError

_WORDS: dict[str, Any] = {"true": True, "false": False, "none": None, "null": None}


def split(text: str, where: str, example: str) -> tuple[str, str]:
    """Name and value of one `NAME=VALUE`.

    Args:
        text: what was given.
        where: what a message begins with (`--set`).
        example: of what could have been given.

    Raises:
        ConfigError: there is no `=`, or no name before it.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"{where} {text!r}: expected NAME=VALUE, for instance {example}.")
    return name.strip(), value.strip()


def pairs(texts: Iterable[str], where: str, example: str) -> dict[str, str]:
    """Values by name of several `NAME=VALUE`; `where` and `example` as of `split`.

    Raises:
        ConfigError: as `split`, or for a name that comes twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, value = split(text, where, example)
        if name in found:
            raise ConfigError(f"{where} {text!r}: {name!r} is given twice.")
        found[name] = value
    return found


def parse_kwargs(text: str, where: str = "model option") -> dict[str, Any]:
    """The arguments in the `num_classes=10&in_chans=1` part of the name of a model.

    A value is a number, `true`, `false`, `none`, several with commas between (`0,1,2`), or else a text.

    Args:
        text: the part behind the `?`; may be empty.
        where: what a message begins with.

    Raises:
        ConfigError: for a part that is not `name=value`, or a name that comes twice.
    """
    example = "num_classes=10"
    found = pairs(text.split("&") if text else (), where, example)
    for name in found:
        if not name.isidentifier():
            raise ConfigError(f"{where} {name!r}: expected NAME=VALUE, for instance {example}.")
    return {name: value_of(value) for name, value in found.items()}


def value_of(text: str) -> Any:
    """The likeliest meaning of a text; a list where there are commas. Infinite numbers stay texts."""
    if "," in text:
        return [value_of(part) for part in text.split(",") if part]
    first = readings(text)[0]
    return first if not isinstance(first, float) or math.isfinite(first) else text


def readings(text: str) -> list[Any]:
    """All that a text can mean, the likeliest first: a word such as `true`, a number, itself."""
    found: list[Any] = []
    if text.lower() in _WORDS:
        found.append(_WORDS[text.lower()])
    for read in (int, float):
        try:
            found.append(read(text))
        except ValueError:
            continue
    found += [int(number) for number in found if isinstance(number, float) and number.is_integer()]  # 1e1
    return [*found, text]
