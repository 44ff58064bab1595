"""Options of the data set `folder` that say which classes masks hold."""

from __future__ import annotations

from collections.abc import Sequence

from binarize.data.labels import IGNORE, Colour, Labels, colour_code
from binarize.errors import ConfigError

_WHERE = "data set folder"


def labels_of(
    classes: dict[int, str] | list[str] | int | None,
    colours: dict[str, list[int]] | None,
    ignored: list[int | list[int]] | None,
    labels: dict[int, int] | None,
    palette: list[list[int]] | None,
) -> Labels:
    """What masks mean, by the options of `data.folder.folders`.

    Raises:
        ConfigError: they contradict each other, or describe fewer than two or more than 255 classes.
    """
    names, values = _named(classes, colours)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{_WHERE}: classes: {twice[0]!r} is given twice; names must differ.")
    if not 1 <= len(names) <= 255:
        raise ConfigError(f"{_WHERE}: {len(names)} classes; expected 1 to 255: 255 is ignored.")
    if len(names) == 1:
        raise ConfigError(
            f"{_WHERE}: 1 class; there is nothing to distinguish. The background is a class too: "
            "`classes: 2`, and for masks of 0 and 255 `labels: {0: 0, 255: 1}`."
        )
    shown = tuple(_colour(colour, "palette") for colour in palette or ())
    if shown and len(shown) != len(names):
        raise ConfigError(f"{_WHERE}: {len(shown)} colours for {len(names)} classes.")
    if colours is not None and not shown:
        shown = tuple(_colour(colour, name) for name, colour in colours.items())
    void = _ignored(ignored, coloured=colours is not None, taken=values)
    return Labels(
        names=names,
        palette=shown,
        ignored=void,
        mapping=_mapping(labels or {}, len(names), values=values),
        values=values,
        coloured=colours is not None,
    )


def _named(
    classes: dict[int, str] | list[str] | int | None, colours: dict[str, list[int]] | None
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names, and the value of each class in files; no values where these are ids."""
    if colours is not None:
        values = tuple(colour_code(_colour(colour, name)) for name, colour in colours.items())
        if len(set(values)) < len(values):
            raise ConfigError(f"{_WHERE}: colours: two classes have one colour; colours must differ.")
        return tuple(colours), values
    if isinstance(classes, dict):
        if wrong := [value for value in classes if not 0 <= value <= 65535]:
            raise ConfigError(f"{_WHERE}: classes: value {wrong[0]}; masks hold 0 to 65535.")
        return tuple(classes.values()), tuple(classes)
    if isinstance(classes, int):
        return tuple(f"class {i}" for i in range(classes)), ()
    return tuple(classes or ()), ()


def _ignored(given: list[int | list[int]] | None, *, coloured: bool, taken: Sequence[int]) -> tuple[int, ...]:
    if given is None:
        return () if coloured or IGNORE in taken else (IGNORE,)
    found = []
    for value in given:
        if isinstance(value, list) != coloured:
            expected = "a colour [R, G, B], as in `colours`" if coloured else "a value of the masks"
            raise ConfigError(f"{_WHERE}: ignored: {value}: expected {expected}.")
        found.append(colour_code(_colour(value, "ignored")) if isinstance(value, list) else value)
    if both := sorted(set(found) & set(taken)):
        shown = next(v for v, code in zip(given, found, strict=True) if code == both[0])
        raise ConfigError(f"{_WHERE}: {shown} is a class and is ignored; leave out one of both.")
    return tuple(found)


def _colour(given: Sequence[int], name: str) -> Colour:
    if len(given) != 3 or not all(0 <= part <= 255 for part in given):
        raise ConfigError(f"{_WHERE}: {name}: {list(given)}: expected a colour [R, G, B] of 0 to 255.")
    return given[0], given[1], given[2]


def _mapping(given: dict[int, int], count: int, *, values: Sequence[int]) -> tuple[tuple[int, int], ...]:
    if given and values:
        raise ConfigError(
            f"{_WHERE}: labels: `classes: {{VALUE: NAME}}` and `colours` say already which value is which "
            "class; leave `labels` out."
        )
    for value, label in given.items():
        if not (0 <= label < count or label == IGNORE):
            raise ConfigError(
                f"{_WHERE}: labels: {{{value}: {label}}}: expected a class id from 0 to {count - 1}, or "
                f"{IGNORE} for pixels to ignore."
            )
    return tuple(sorted(given.items()))
