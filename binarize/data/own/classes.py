"""Which classes masks hold, from the values that occur in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from binarize.data.labels import IGNORE, colour_code, colour_of
from binarize.data.own.class_names import Colour, NamedClasses
from binarize.errors import DataError, listed

_VOID = ("void", "unlabeled", "unlabelled", "ignore", "ignored", "unknown", "undefined", "none", "dontcare")
_SPARSE = 4  # a largest value of at least this many times the number of values: they stand for ids
_FEW = 8  # more values than these are ids, of which some do not occur
_MOST = 255
_USUAL, _MIXED = 40, 0.8  # so many colours with this share of the pixels: the others are mixed from them


@dataclass(frozen=True, kw_only=True)
class Classes:
    """Options `classes` or `colours`, `ignored` and `palette` of the data set `folder`, and why.

    Attributes:
        names: of the classes by id; `class` and their value in the masks where nothing names them.
        values: of the classes in the masks, if these are not the ids 0, 1, 2...; else empty. Of masks that
            hold colours, 65536 R + 256 G + B.
        coloured: whether the masks hold colours.
        ignored: values that do not count, likewise.
        palette: (R, G, B) per class, or empty.
        named: whether the names are from somewhere.
        shares: of each class in all pixels that count.
        why: sentences on what was found, for comments.
    """

    names: tuple[str, ...]
    values: tuple[int, ...]
    coloured: bool
    ignored: tuple[int, ...]
    palette: tuple[Colour, ...]
    named: bool
    shares: tuple[float, ...]
    why: tuple[str, ...] = field(default=())

    def options(self) -> dict[str, Any]:
        """As options of the data set `folder`."""
        if self.coloured:
            colours = {n: list(colour_of(v)) for n, v in zip(self.names, self.values, strict=True)}
            return {"colours": colours, "ignored": [list(colour_of(v)) for v in self.ignored]}
        found: dict[str, Any] = {"classes": list(self.names), "ignored": list(self.ignored)}
        if self.values:
            found["classes"] = dict(zip(self.values, self.names, strict=True))
        if self.palette:
            found["palette"] = [list(colour) for colour in self.palette]
        return found


def find_classes(
    counts: Mapping[int, int],
    named: NamedClasses | None,
    palette: Mapping[int, Colour],
    *,
    coloured: bool = False,
    complete: bool = False,
) -> Classes:
    """The classes of masks.

    Args:
        counts: pixels of each value that occurs; of each colour as of `colour_code`.
        named: what a file, or the user, says of them.
        palette: colours of the values in palette images, or empty.
        coloured: whether the masks hold colours.
        complete: whether all masks were counted.

    Raises:
        DataError: too many values for classes, or one value only.
    """
    values = sorted(counts)
    _check(values, counts, coloured=coloured, named=named is not None)
    if coloured:
        by_value, why = by_colour(counts, named)
    else:
        by_value, why = _by_value(values, named, complete=complete)
    void = [v for v in values if v not in by_value]
    total = sum(counts.get(v, 0) for v in by_value) or 1
    colours = {**palette, **(named.colours if named is not None else {})}
    chosen = [colours[v] for v in by_value if v in colours and not coloured]
    if void:
        shown = [str(list(colour_of(v)) if coloured else v) for v in void]
        why.append(f"{listed(shown, 6)} {'is' if len(void) == 1 else 'are'} taken for no label")
    return Classes(
        names=tuple(by_value.values()),
        values=() if tuple(by_value) == tuple(range(len(by_value))) and not coloured else tuple(by_value),
        coloured=coloured,
        ignored=tuple(sorted({*void, *({IGNORE} - by_value.keys() if not coloured else ())})),
        palette=tuple(chosen) if len(chosen) == len(by_value) and len(set(chosen)) > 1 else (),
        named=named is not None and any(name in named.names.values() for name in by_value.values()),
        shares=tuple(counts.get(v, 0) / total for v in by_value),
        why=tuple(why),
    )


def _check(values: list[int], counts: Mapping[int, int], *, coloured: bool, named: bool) -> None:
    """Refuse values that cannot be classes."""
    if coloured and len(values) > _MOST:
        frequent = sum(sorted(counts.values())[-_USUAL:]) / sum(counts.values())
        mixed = (
            f"{_USUAL} of them have {100 * frequent:.0f} % of the pixels: were the masks resized, smoothed "
            "or compressed? Write them again without that (nearest neighbour), as PNG"
        )
        raise DataError(
            f"the masks hold {len(values)} colours: more than classes have. "
            f"{mixed if frequent > _MIXED else 'Are they photographs?'}"
        )
    if len(values) > _MOST or values[0] < 0:
        raise DataError(
            f"the masks hold {len(values)} values from {values[0]} to {values[-1]}: more than classes have. "
            "Are they grey pictures, numbers of objects, or depths (--depth)?"
        )
    if len(values) == 1 and not named:
        what = f"colour {list(colour_of(values[0]))}" if coloured else f"value {values[0]}"
        raise DataError(
            f"all masks hold the {what} only: there is nothing to distinguish. Do they hold what they should?"
        )


def by_colour(counts: Mapping[int, int], named: NamedClasses | None) -> tuple[dict[int, str], list[str]]:
    """The name of each colour's class, those of a list of colours or `class 0` and so on; and why."""
    why = [f"the masks hold colours, {len(counts)} different ones"]
    if named is not None and len(named.colours) == len(named.names):
        names = {colour_code(named.colours[value]): name for value, name in named.names.items()}
        fitting = sum(number for value, number in counts.items() if value in names)
        if len(names) == len(named.names) and 2 * fitting >= sum(counts.values()):
            return _without_void(names), why
    if named is not None:
        why.append(
            f"{named.source} names {len(named.names)} classes, but not with these colours: which name is "
            "whose is not known"
        )
    return {value: f"class {index}" for index, value in enumerate(sorted(counts))}, why


def _without_void(names: dict[int, str]) -> dict[int, str]:
    kept = {v: n for v, n in names.items() if n.lower().replace(" ", "") not in _VOID}
    return kept if len(kept) > 1 else names


def _by_value(
    values: list[int], named: NamedClasses | None, *, complete: bool
) -> tuple[dict[int, str], list[str]]:
    """The name of the class that each value stands for, in the order of ids; values left out are ignored."""
    why: list[str] = []
    if named is not None:
        if (fitted := _fitted(values, named)) is not None:
            text, names = fitted
            if text:
                why.append(text)
            return _without_void(names), why
        why.append(f"{named.source} names {len(named.names)} classes, which do not fit the values")
    counted = [v for v in values if v != IGNORE]
    if _stand_for(counted, values):
        why.append(f"the values {listed(map(str, values), 6)} stand for classes")
        if IGNORE in values and len(counted) > 2:  # 0, 128 and 255 are levels of grey
            why.append(f"if {IGNORE} means no label, move it from `classes` to `ignored`")
        return {v: f"class {v}" for v in values}, why
    if counted[0] == 1:
        why.append("ids count from 1")
    span = range(counted[0] if counted[0] == 1 else 0, counted[-1] + 1)
    if absent := [v for v in span if v not in values]:
        why.append(f"ids {listed(map(str, absent))} do not occur")
        if complete or len(absent) >= len(counted):
            why.append("other values are an error: add a line for each that is still to come")
            return {v: f"class {v}" for v in counted}, why
    return {v: f"class {v}" for v in span}, why


def _stand_for(counted: list[int], values: list[int]) -> bool:
    """Whether values are numbers that stand for ids (0 and 255, 0, 128 and 255), not ids themselves."""
    if len(counted) < 2:
        return True
    return len(counted) <= _FEW and counted[-1] >= _SPARSE * len(counted) and counted[-1] > 10


def _fitted(values: list[int], named: NamedClasses) -> tuple[str, dict[int, str]] | None:
    """Names by value, and what was done for it; None if they cannot be those of the values."""
    known = [v for v in values if v != IGNORE or v in named.names]
    count, names = len(named.names), list(named.names.values())
    in_order = dict(zip(values, names, strict=False))
    stand = f"the values {listed(map(str, values), 6)} stand for classes"
    if len(values) == count and len(known) < 2:  # 0 and 255
        return stand, in_order
    if set(known) <= named.names.keys():
        return "", dict(sorted(named.names.items()))
    if named.numbered:
        return ("", dict(sorted(named.names.items()))) if named.names.keys() & set(known) else None
    if known[-1] == count:
        zero = " and 0 for none" if known[0] == 0 else ""  # as ADE20K's
        text = f"{named.source} names {count} classes, taken for the values 1 to {count}{zero}"
        return text, {i + 1: name for i, name in enumerate(names)}
    return (stand, in_order) if len(values) == count else None
