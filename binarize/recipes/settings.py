"""Settings of the command line, `training.lr=1e-3`, on top of a recipe's values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from binarize import option_texts
from binarize.errors import ConfigError
from binarize.recipes.schema import Network, can_be_none
from binarize.recipes.source import Place, Source, load_yaml

_EXAMPLE = "training.lr=1e-3"
_DEFAULT_NAMES = {"network": Network.model_fields["name"].default}
_OF_DATA = {"options", "root", "train", "val", "test"}
"""Settings that mean something for one data set only: where it is, and how its splits are called."""


def apply_settings(
    values: dict[str, Any], settings: Sequence[str], source: Source | None = None
) -> dict[str, Any]:
    """Values with others put in by dotted names: `training.lr=1e-3`.

    Args:
        values: of a recipe; they are not changed.
        settings: `NAME=VALUE` each, VALUE in YAML; their order has no meaning.
        source: where the values stand in files, for messages.

    Raises:
        ConfigError: a setting of another form.
    """
    over: dict[str, Any] = {}
    given: dict[Place, str] = {}
    for setting in sorted(settings):  # the order of settings never counts
        key, text = option_texts.split(setting, "--set", _EXAMPLE)
        place = tuple(key.split("."))
        if not all(place):
            raise ConfigError(f"--set {setting!r}: expected NAME=VALUE, for instance {_EXAMPLE}.")
        try:
            value = load_yaml(text)
        except (yaml.YAMLError, ValueError, TypeError) as error:
            raise ConfigError(
                f"--set {setting!r}: {text!r} is not a YAML value ({_first(error)})."
            ) from error
        _put(over, place, value, given, setting)
        if source is not None:  # the file's lines for inner values no longer hold
            source.lines = {at: line for at, line in source.lines.items() if at[: len(place)] != place}
    if source is not None:
        source.lines |= {place: f"--set {'.'.join(map(str, place))}" for place in given}
    return merged(values, over)


def _put(
    over: dict[str, Any], place: Place, value: Any, given: dict[Place, str], setting: str, top: bool = True
) -> None:
    """Add a value; refuse two different ones for one place, whose order would count.

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


def merged(
    base: Mapping[str, Any], over: Mapping[str, Any], *, deletes: bool = False, place: Place = ()
) -> dict[str, Any]:
    """`over` wins; mappings are merged; what belongs to another `name` (its options) is dropped.

    Args:
        base: values of a recipe.
        over: others.
        deletes: whether null in `over` deletes what `base` has; it stays a value where a setting can be none
            (`data.val`), and where nothing is inherited.
        place: of both in the recipe.
    """
    result = dict(base)
    for key, value in over.items():
        old, here = result.get(key), (*place, key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            before = old.get("name", _DEFAULT_NAMES.get(key))
            renamed = "name" in value and before is not None and value["name"] != before
            if renamed:  # options are those of another network, method or data set
                gone = _OF_DATA if key == "data" else {"options", "output"}
                gone = gone | ({"encoder"} if ":" in str(value["name"]) else set())
                old = {k: v for k, v in old.items() if k not in gone}
            result[key] = merged(old, value, deletes=deletes, place=here)
        elif value is None and deletes and key in result and not can_be_none(here):
            del result[key]
        else:
            result[key] = value
    return result


def _first(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
