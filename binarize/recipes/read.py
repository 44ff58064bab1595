"""From a file, and the files that it extends, to a recipe; all faults at once, each with file and line."""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from binarize import option_texts
from binarize.errors import ConfigError, near_names, unknown_name
from binarize.recipes.schema import Recipe

_EXTENDS = "extends"
_EXAMPLE = "training.lr=1e-3"  # of a setting
Place = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """YAML 1.1, but `1e1`, `1e-3` and `1.5e3` are numbers, as in YAML 1.2; in quotes they are texts."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


class _Source:
    """Where each value of a recipe was written."""

    def __init__(self) -> None:
        self.lines: dict[Place, str] = {}

    def of(self, place: Place) -> str:
        """File and line of a value, or of the closest one around it."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, "")


def folder() -> Path:
    """Where the recipes are that come with the toolkit: beside the package, or inside of an installed one."""
    package = Path(__file__).parent.parent
    beside = package.parent / "recipes"
    return (
        beside if (package.parent / "pyproject.toml").is_file() and beside.is_dir() else package / "_recipes"
    )


def names() -> list[str]:
    """Names of the recipes that come with the toolkit: `shapes/convnext_atto-bidense`."""
    root = folder()
    files = (p.relative_to(root).with_suffix("") for p in root.glob("*/*.yaml"))
    return sorted(p.as_posix() for p in files if not p.name.startswith("_"))


def find(name: str | Path) -> Path:
    """The file of a recipe, given by its path or by its name.

    Raises:
        ConfigError: there is none; the message holds near names.
    """
    path = Path(name)
    if path.is_file():
        return path
    text = path.as_posix().removeprefix("recipes/").removesuffix(".yaml")
    if text in (known := names()):
        return folder() / f"{text}.yaml"
    if path.suffix in (".yaml", ".yml") and not near_names(text, known):
        raise ConfigError(f"recipe {path}: no such file, and no recipe of this name; see `binarize recipes`.")
    raise ConfigError(unknown_name("recipe", text, known, "binarize recipes"))


Faults = Callable[[Recipe], Iterable[tuple[Place, str]]]
"""What else is wrong with a recipe: places in it, and messages."""


def load(name: str | Path, settings: Sequence[str] = (), faults: Faults | None = None) -> Recipe:
    """A recipe from its file.

    Args:
        name: path, or name of one that comes with the toolkit.
        settings: `a.b=value` each, on top of the file, in any order.
        faults: finds what only those who use the recipe can know.

    Raises:
        ConfigError: no such file, or it is no recipe; the message names all faults.
    """
    path = find(name)
    source = _Source()
    values = _read(path, source, ())
    recipe = validate(apply_settings(values, settings, source), str(path), source)
    found = [] if faults is None else [_said(source, place, what) for place, what in faults(recipe)]
    if found:
        raise ConfigError("\n".join([f"recipe {path}:", *(f"  {fault}" for fault in found)]))
    return recipe


def apply_settings(
    values: dict[str, Any], settings: Sequence[str], source: _Source | None = None
) -> dict[str, Any]:
    """Values with others put in by dotted names: `training.lr=1e-3`.

    Raises:
        ConfigError: a setting of another form.
    """
    over: dict[str, Any] = {}
    given: dict[Place, str] = {}
    for setting in sorted(settings):  # files that are written later do not tell their order either
        key, text = option_texts.split(setting, "--set", _EXAMPLE)
        place = tuple(key.split("."))
        if not all(place):
            raise ConfigError(f"--set {setting!r}: expected NAME=VALUE, for instance {_EXAMPLE}.")
        try:
            value = _loaded(text)
        except (yaml.YAMLError, ValueError, TypeError) as error:
            raise ConfigError(f"--set {setting!r}: {text!r} is no YAML value ({_first(error)}).") from error
        _put(over, place, value, given, setting)
        if source is not None:  # what the file says further inside is no longer there
            source.lines = {at: line for at, line in source.lines.items() if at[: len(place)] != place}
    if source is not None:
        source.lines |= {place: f"--set {'.'.join(map(str, place))}" for place in given}
    return _merged(values, over)


def _put(
    over: dict[str, Any], place: Place, value: Any, given: dict[Place, str], setting: str, top: bool = True
) -> None:
    """Add a value; two that say different things of one place would make their order count.

    Args:
        over: the values so far, changed.
        place: of the value.
        value: what it is.
        given: the setting that each value came from, changed.
        setting: that this one comes from.
        top: whether `place` is what the setting names.
    """
    if top:
        given.setdefault(place, setting)
    at: Any = over
    for index, part in enumerate(place[:-1]):
        at = at.setdefault(part, {})
        if not isinstance(at, dict):
            raise _contradiction(place[: index + 1], given, setting)
    old = at.get(place[-1], ...)
    if isinstance(value, dict) and (old is ... or isinstance(old, dict)):
        at.setdefault(place[-1], {})
        for name, inner in value.items():
            _put(over, (*place, name), inner, given, setting, top=False)
    elif old is ...:
        at[place[-1]] = value
    elif type(old) is not type(value) or old != value:
        raise _contradiction(place, given, setting)


def _contradiction(place: Place, given: Mapping[Place, str], setting: str) -> ConfigError:
    other = next((s for at, s in given.items() if s != setting and at[: len(place)] == place[: len(at)]), "")
    name = ".".join(map(str, place))
    return ConfigError(f"--set {setting!r}: {name} is set already{f', by {other!r}' if other else ''}.")


def _loaded(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)


def validate(values: Mapping[str, Any], where: str, source: _Source | None = None) -> Recipe:
    """A recipe from plain values.

    Raises:
        ConfigError: they are none; the message names all faults.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        faults = "\n".join(f"  {fault}" for fault in _faults(error, source or _Source()))
        raise ConfigError(f"recipe {where}:\n{faults}") from None


def _read(path: Path, source: _Source, via: tuple[Path, ...]) -> dict[str, Any]:
    path = path.resolve()
    if path in via:
        chain = " -> ".join(p.name for p in (*via, path))
        raise ConfigError(f"recipe {path}: extends itself ({chain}).")
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=_Loader)
        values = _loaded(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {path}: cannot be read ({error}).") from error
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        raise ConfigError(f"recipe {path}: no YAML: {error}.") from error
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"recipe {path}: expected `name: value` lines, found something else.")
    lines: dict[Place, str] = {}
    try:
        _note_lines(node, path, (), lines)
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
    return _merged(base, values)


def _note_lines(node: yaml.Node, path: Path, place: Place, lines: dict[Place, str]) -> None:
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
            _note_lines(value, path, (*place, key.value), lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*place, index)] = f"{path.name}, line {value.start_mark.line + 1}"


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` wins; mappings are merged, but one that names something else starts anew."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            renamed = "name" in value and "name" in old and value["name"] != old["name"]
            if renamed:  # options are those of another method or data set
                old = {k: v for k, v in old.items() if k != "options"}
            result[key] = _merged(old, value)
        else:
            result[key] = value
    return result


def _faults(error: ValidationError, source: _Source) -> Iterator[str]:
    for fault in error.errors(include_url=False):
        place = tuple(fault["loc"])
        if fault["type"] == "extra_forbidden":
            known = _fields(place[:-1])
            near = near_names(str(place[-1]), known)
            hint = f"did you mean {' or '.join(near)}?" if near else f"expected one of {', '.join(known)}."
            yield _said(source, place, f"no such setting; {hint}")
        elif fault["type"] == "missing":
            yield _said(source, place, "is missing.")
        else:
            message = fault["msg"].removeprefix("Value error, ")
            yield _said(source, place, f"{message[0].lower()}{message[1:]}; got {fault['input']!r}.")


def _said(source: _Source, place: Place, what: str) -> str:
    where, name = source.of(place), ".".join(map(str, place)) or "recipe"
    if not where or where == f"--set {name}":  # it is said once
        return f"{where or name}: {what}"
    return f"{where}: {name}: {what}"


def _fields(place: Place) -> list[str]:
    """The settings that a part of a recipe can have."""
    model: Any = Recipe
    for part in place:
        field = model.model_fields.get(part) if isinstance(part, str) else None
        if field is None:
            return []
        options = (field.annotation, *typing.get_args(field.annotation))
        model = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
        if model is None:
            return []
    return sorted(model.model_fields)


def _first(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
