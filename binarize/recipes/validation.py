"""From plain values to a recipe; all faults at once, each with its file and line."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from binarize.errors import ConfigError, near_names
from binarize.recipes import stages
from binarize.recipes.schema import TrainingRecipe
from binarize.recipes.source import Place, Source, located


def validate(values: Mapping[str, Any], where: str, source: Source | None = None) -> TrainingRecipe:
    """A recipe from plain values.

    Args:
        values: as YAML has them, with what the recipe extends.
        where: its name or file, for messages.
        source: where the values stand in files, likewise.

    Raises:
        ConfigError: they are not a recipe; the message names all faults.
    """
    source = source or Source()
    try:
        recipe = TrainingRecipe.model_validate(values)
    except ValidationError as error:
        faults = "\n".join(f"  {fault}" for fault in _faults(error, source))
        raise ConfigError(f"recipe {where}:\n{faults}") from None
    found = [located(source, place, what) for place, what in stages.faults(recipe)]
    if found:
        raise ConfigError("\n".join([f"recipe {where}:", *(f"  {fault}" for fault in found)]))
    return recipe


def _faults(error: ValidationError, source: Source) -> Iterator[str]:
    for fault in error.errors(include_url=False):
        place = tuple(fault["loc"])
        if fault["type"] == "extra_forbidden":
            known = _fields(place[:-1])
            near = near_names(str(place[-1]), known)
            hint = f"did you mean {' or '.join(near)}?" if near else f"expected one of {', '.join(known)}."
            yield located(source, place, f"no such setting; {hint}")
        elif fault["type"] == "missing":
            yield located(source, place, "is missing.")
        elif fault["type"] == "tuple_type":
            given = fault["input"]
            hint = f" Write [{given}]." if isinstance(given, str) else ""
            yield located(source, place, f"expected a list; got {given!r}.{hint}")
        else:
            message = fault["msg"].removeprefix("Value error, ").replace("Tuple", "list")
            yield located(source, place, f"{message[0].lower()}{message[1:]}; got {fault['input']!r}.")


def _fields(place: Place) -> list[str]:
    """The settings that a part of a recipe can have."""
    model: Any = TrainingRecipe
    for part in place:
        field = model.model_fields.get(part) if isinstance(part, str) else None
        if field is None:
            return []
        options = (field.annotation, *typing.get_args(field.annotation))
        model = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
        if model is None:
            return []
    return sorted(model.model_fields)
