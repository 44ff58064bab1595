"""YAML with the file and line of each value."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from binarize.errors import ConfigError

Place = tuple[str | int, ...]


class Loader(yaml.SafeLoader):
    """YAML 1.1, but `1e1`, `1e-3` and `1.5e3` are numbers, as in YAML 1.2; in quotes they are texts."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


class Source:
    """Where each value of a recipe was written."""

    def __init__(self) -> None:
        self.lines: dict[Place, str] = {}

    def of(self, place: Place) -> str:
        """File and line of a value, or of the closest one around it."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, "")


def load_yaml(text: str) -> Any:
    """The value of a YAML text; raises yaml.YAMLError, ValueError or TypeError."""
    return yaml.load(text, Loader=Loader)


def note_lines(node: yaml.Node, path: Path, place: Place, lines: dict[Place, str]) -> None:
    """Put file and line of every value under a node into `lines`, by place.

    Raises:
        ConfigError: a name that is not a text, or that stands there twice.
    """
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            number = key.start_mark.line + 1
            if not isinstance(key.value, str):
                raise ConfigError(f"{path}, line {number}: expected a name, found a list or a mapping.")
            if key.value in seen:
                raise ConfigError(
                    f"{path}, line {number}: {key.value!r} is there already, in line {seen[key.value]}."
                )
            seen[key.value] = number
            lines[(*place, key.value)] = f"{path.name}, line {number}"
            note_lines(value, path, (*place, key.value), lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*place, index)] = f"{path.name}, line {value.start_mark.line + 1}"


def located(source: Source, place: Place, what: str) -> str:
    """A message with the file, line and name of the value that it is about."""
    where, name = source.of(place), ".".join(map(str, place)) or "recipe"
    if not where or where == f"--set {name}":  # not twice
        return f"{where or name}: {what}"
    return f"{where}: {name}: {what}"
