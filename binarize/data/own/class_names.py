"""Names of classes from a text file that lies beside the data."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from binarize.data import files
from binarize.errors import DataError, near_paths

_STEMS = ("classes", "codes", "labels", "class_names", "names", "label_colors", "label_names", "categories")
_ENDINGS = (".txt", ".csv", ".json")
_NUMBER = re.compile(r"-?\d+")

Colour = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class NamedClasses:
    """What a file says of the classes.

    Attributes:
        source: the file, or where else the names come from.
        names: by the value that they have in masks; those without a value count from 0.
        numbered: whether the values are in the file.
        colours: (R, G, B) by the same values, or empty.
    """

    source: str
    names: dict[int, str]
    numbered: bool = False
    colours: dict[int, Colour]


def find_names(places: Iterable[Path]) -> NamedClasses | None:
    """The first file in the folders `places` that lists classes: `codes.txt`, `classes.txt`, `labels.txt`...

    Raises:
        DataError: it is not a text.
    """
    for place in dict.fromkeys(places):
        there = {p.name.lower(): p for p in sorted(place.iterdir()) if p.is_file()}
        for stem in _STEMS:
            for ending in _ENDINGS:
                path = there.get(stem + ending)
                if path is not None and (found := read_names(path)) is not None:
                    return found
    return None


def read_names(path: Path) -> NamedClasses | None:
    """The classes that a file lists, one per line; None if it lists something else.

    A line is `name`, `id name` or `name id`, with the colour `R G B` anywhere; commas, colons and tabs
    separate too. JSON is a list of names, or an object with `names` or `classes` and maybe `palette`.

    Raises:
        DataError: it is not a text.
    """
    try:
        content = files.text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable list of classes ({error}).") from error
    if path.suffix.lower() == ".json":
        return _json(path, content)
    rows = [_row(line) for line in content.splitlines() if line.strip() and not line.startswith("#")]
    rows = [row for row in rows if row is not None]
    if not 2 <= len(rows) <= 255:
        return None
    ids = [numbers[0] if len(numbers) in (1, 4) else None for _, numbers in rows]
    numbered = None not in ids and len(set(ids)) == len(ids)
    values = [i for i in ids if i is not None] if numbered else list(range(len(rows)))
    colours = {
        value: (n[-3], n[-2], n[-1])
        for value, (_, n) in zip(values, rows, strict=True)
        if len(n) >= 3 and all(0 <= part <= 255 for part in n[-3:])
    }
    names = {value: name for value, (name, _) in zip(values, rows, strict=True)}
    return _checked(path, names, numbered, colours if len(colours) == len(rows) else {})


def _row(line: str) -> tuple[str, list[int]] | None:
    """The name and the numbers of a line; None for a heading or a line without a name."""
    words = [word for word in re.split(r"[\s,;:\t=]+", line.strip()) if word]
    numbers = [int(word) for word in words if _NUMBER.fullmatch(word)]
    name = " ".join(word for word in words if not _NUMBER.fullmatch(word)).strip("\"'")
    return (name, numbers) if name else None


def _json(path: Path, content: str) -> NamedClasses | None:
    try:
        found = json.loads(content)
    except ValueError:
        return None
    palette: object = []
    if isinstance(found, dict):
        palette = found.get("palette", [])
        found = found.get("names", found.get("classes"))
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        return None
    colours: dict[int, Colour] = {}
    if isinstance(palette, list) and len(palette) == len(found):
        for index, colour in enumerate(palette):
            if isinstance(colour, list) and len(colour) == 3 and all(type(v) is int for v in colour):
                colours[index] = (colour[0], colour[1], colour[2])
    whole = colours if len(colours) == len(found) else {}
    return _checked(path, dict(enumerate(found)), False, whole)


def _checked(
    path: Path, names: dict[int, str], numbered: bool, colours: dict[int, Colour]
) -> NamedClasses | None:
    given = list(names.values())
    if len(set(given)) != len(given) or not 2 <= len(given) <= 255 or max(map(len, given)) > 60:
        return None  # long lines, or the same ones: a list of something else
    if any(Path(name).suffix.lower() in files.IMAGES for name in given):
        return None  # of images
    return NamedClasses(source=path.name, names=names, numbered=numbered, colours=colours)


def given_names(text: str) -> NamedClasses | None:
    """The classes of an option: names with commas between, each maybe with its value, `0=sky,255=crack`.

    Raises:
        DataError: it is a file that lists no classes, or is missing, or a value is given twice.
    """
    if Path(text).is_file():
        found = read_names(Path(text))
        if found is None:
            raise DataError(f"--labels {text}: expected a file with the name of a class on each line.")
        return found
    if "," not in text and Path(text).suffix.lower() in _ENDINGS:
        raise DataError(f"--labels {text}: no such file.{near_paths(Path(text))}")
    parts = [part.strip() for part in text.split(",") if part.strip()]
    pairs = [part.partition("=") for part in parts]
    numbered = all(equals and _NUMBER.fullmatch(value.strip()) for value, equals, _ in pairs)
    if not numbered and any(equals for _, equals, _ in pairs):
        raise DataError(f"--labels {text!r}: expected names, or VALUE=NAME for each: 0=sky,255=crack.")
    names = {int(v): n.strip() for v, _, n in pairs} if numbered else dict(enumerate(parts))
    if len(names) < 2 or len(names) < len(parts) or len(set(names.values())) < len(names):
        raise DataError(
            f"--labels {text!r}: expected at least two classes, each with another name and value."
        )
    return NamedClasses(source="--labels", names=names, numbered=numbered, colours={})
