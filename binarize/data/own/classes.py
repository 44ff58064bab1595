"""Which classes masks hold, from the values that occur in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from binarize.data.dataset import IGNORE
from binarize.data.own.class_names import Colour, NamedClasses
from binarize.errors import DataError, listed

_VOID = ("void", "unlabeled", "unlabelled", "ignore", "ignored", "unknown", "undefined", "none", "dontcare")
_SPARSE = 4  # a largest value of at least this many times the number of values: they stand for ids
_FEW = 8  # more values than these are ids, of which some do not occur
_MOST = 255


@dataclass(frozen=True, kw_only=True)
class Classes:
    """Options `classes`, `labels`, `ignored` and `palette` of the data set `folder`, and why.

    Attributes:
        names: of the classes by id; `class 0` and so on where nothing names them.
        labels: id of the class for each value of the masks that is another number; empty if none is.
        ignored: values that do not count.
        palette: (R, G, B) per class, or empty.
        named: whether the names are from somewhere.
        shares: of each class in all pixels that count.
        why: sentences on what was found, for comments.
    """

    names: tuple[str, ...]
    labels: dict[int, int]
    ignored: tuple[int, ...]
    palette: tuple[Colour, ...]
    named: bool
    shares: tuple[float, ...]
    why: tuple[str, ...] = field(default=())


def find_classes(
    counts: Mapping[int, int], named: NamedClasses | None, palette: Mapping[int, Colour]
) -> Classes:
    """The classes of masks.

    Args:
        counts: pixels of each value that occurs.
        named: what a file, or the user, says of them.
        palette: colours of the values in palette images, or empty.

    Raises:
        DataError: too many values for classes, or one value only.
    """
    values = sorted(counts)
    if len(values) > _MOST or values[0] < 0:
        raise DataError(
            f"the masks hold {len(values)} values from {values[0]} to {values[-1]}: more than classes have. "
            "Are they grey pictures, numbers of objects, or depths (--depth)?"
        )
    if len(values) == 1 and named is None:
        raise DataError(
            f"all masks hold the value {values[0]} only: there is nothing to distinguish. Do they hold what "
            "they should?"
        )
    by_value, why = _by_value(values, named)
    void = [v for v in values if v not in by_value]
    ids = {value: index for index, value in enumerate(by_value)}
    labels = {value: index for value, index in ids.items() if value != index}
    labels = ids if labels else {}  # whole, which is easier to read and to change
    total = sum(counts.get(v, 0) for v in by_value) or 1
    colours = {**palette, **(named.colours if named is not None else {})}
    chosen = [colours[v] for v in by_value if v in colours]
    if void:
        why.append(f"{listed(map(str, void))} {'is' if len(void) == 1 else 'are'} taken for no label")
    return Classes(
        names=tuple(by_value.values()),
        labels=labels,
        ignored=tuple(sorted({*void, *({IGNORE} - by_value.keys())})),
        palette=tuple(chosen) if len(chosen) == len(by_value) and len(set(chosen)) > 1 else (),
        named=named is not None and any(name in named.names.values() for name in by_value.values()),
        shares=tuple(counts.get(v, 0) / total for v in by_value),
        why=tuple(why),
    )


def _by_value(values: list[int], named: NamedClasses | None) -> tuple[dict[int, str], list[str]]:
    """The name of the class that each value stands for, in the order of ids; values left out are ignored."""
    why: list[str] = []
    if named is not None:
        if (fitted := _fitted(values, named)) is not None:
            text, names = fitted
            if text:
                why.append(text)
            kept = {v: n for v, n in names.items() if n.lower().replace(" ", "") not in _VOID}
            return (kept if len(kept) > 1 else names), why
        why.append(f"{named.source} names {len(named.names)} classes, which do not fit the values")
    counted = [v for v in values if v != IGNORE]
    if _stand_for(counted, values):
        why.append(f"the values {listed(map(str, values), 6)} stand for classes")
        return {v: f"class {i}" for i, v in enumerate(values)}, why
    if counted[0] == 1:
        why.append("ids count from 1")
    span = range(counted[0] if counted[0] == 1 else 0, counted[-1] + 1)
    if absent := [v for v in span if v not in values]:
        why.append(f"ids {listed(map(str, absent))} do not occur")
    return {v: f"class {i}" for i, v in enumerate(span)}, why


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
