"""From a file, and the files that it extends, to a recipe; all faults at once, each with file and line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from binarize.errors import ConfigError, near_names
from binarize.recipes.library import find, folder, names, recipes_of
from binarize.recipes.listing import listing
from binarize.recipes.schema import TrainingRecipe
from binarize.recipes.settings import apply_settings, merged
from binarize.recipes.source import Loader, Place, Source, load_yaml, located, note_lines
from binarize.recipes.validation import validate
from binarize.user_code import is_file, parts

_EXTENDS = "extends"


Faults = Callable[[TrainingRecipe], Iterable[tuple[Place, str]]]
"""Finds further faults of a recipe: places in it, and messages."""


def load(name: str | Path, settings: Sequence[str] = (), faults: Faults | None = None) -> TrainingRecipe:
    """A recipe from its file.

    Args:
        name: path, or name of one that comes with the toolkit.
        settings: `a.b=value` each, on top of the file, in any order.
        faults: finds faults that this module cannot know, such as unknown names of methods.

    Raises:
        ConfigError: no such file, or it is not a recipe (the message names all faults), or a folder of
            recipes, which the message lists.
    """
    if held := recipes_of(name):
        rows = listing({each: _about(each) for each in held}, group=str(name))
        raise ConfigError("\n".join([f"{name} is a folder of {len(held)} recipes; name one of them.", *rows]))
    path = find(name)
    source = Source()
    return _finished(_read(path, source, ()), path, source, settings, faults)


def from_text(text: str, path: Path, faults: Faults | None = None) -> TrainingRecipe:
    """A recipe from the text of a file that may not be written yet.

    Args:
        text: of the file.
        path: of the file: paths in it are relative to its folder.
        faults: as of `load`.

    Raises:
        ConfigError: as `load`.
    """
    source = Source()
    return _finished(_parsed(text, path.resolve(), source, ()), path, source, (), faults)


def _finished(
    values: dict[str, Any], path: Path, source: Source, settings: Sequence[str], faults: Faults | None
) -> TrainingRecipe:
    """The recipe of these values, with settings on top, if it is one."""
    values = apply_settings(values, settings, source)
    _locate_code(values, Path.cwd())
    recipe = validate(values, str(path), source)
    found = [] if faults is None else [located(source, place, what) for place, what in faults(recipe)]
    if found:
        raise ConfigError("\n".join([f"recipe {path}:", *(f"  {fault}" for fault in found)]))
    return recipe


def _about(name: str) -> str:
    try:
        return load(name).about
    except ConfigError:
        return "(is not a recipe)"


def _read(path: Path, source: Source, via: tuple[Path, ...]) -> dict[str, Any]:
    path = path.resolve()
    if path in via:
        chain = " -> ".join(p.name for p in (*via, path))
        raise ConfigError(f"recipe {path}: extends itself ({chain}).")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {path}: cannot be read ({error}).") from error
    return _parsed(text, path, source, via)


def _parsed(text: str, path: Path, source: Source, via: tuple[Path, ...]) -> dict[str, Any]:
    """The values of a recipe's text, and of what it extends."""
    try:
        node = yaml.compose(text, Loader=Loader)
        values = load_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        raise ConfigError(f"recipe {path}: not YAML: {error}.") from error
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"recipe {path}: expected `name: value` lines, found something else.")
    lines: dict[Place, str] = {}
    try:
        note_lines(node, path, (), lines)
    except RecursionError:
        raise ConfigError(f"recipe {path}: a part of it holds itself.") from None
    base: dict[str, Any] = {}
    if _EXTENDS in values:
        parent = values.pop(_EXTENDS)
        if not isinstance(parent, str):
            raise ConfigError(
                f"{lines[(_EXTENDS,)]}: extends: expected the path of a file or the name of a recipe, "
                f"got {parent!r}."
            )
        target = path.parent / parent
        if not target.is_file() and parent in names():
            target = folder() / f"{parent}.yaml"
        if not target.is_file():
            near = near_names(parent, names())
            hint = f" (nor is it the name of a recipe; near: {', '.join(near)})" if near else ""
            raise ConfigError(f"{lines[(_EXTENDS,)]}: extends: no such file: {target}{hint}.")
        base = _read(target, source, (*via, path))
    source.lines |= lines
    _locate_code(values, path.parent)
    _locate_data(values, path.parent)
    return merged(base, values, deletes=True)


def _locate_code(values: Mapping[str, Any], folder: Path) -> None:
    """Make the path of the network's Python file absolute if it is there, relative to `folder`."""
    network = values.get("network")
    name = network.get("name") if isinstance(network, dict) else None
    if isinstance(network, dict) and isinstance(name, str) and is_file(name):
        path = folder / parts(name)[0]
        if path.is_file():
            network["name"] = f"{path.resolve()}{name[len(parts(name)[0]) :]}"


def _locate_data(values: Mapping[str, Any], folder: Path) -> None:
    """Make the data set's folder absolute: relative to the recipe's folder, else to the current one."""
    data = values.get("data")
    root = data.get("root") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(root, str):
        return
    path = folder / Path(root).expanduser()
    if path.is_dir() or not Path(root).is_dir():  # in no place: the recipe's, for the message
        data["root"] = str(path.resolve())
