"""What the truth of a segmentation data set means: classes, and the values that stand for them in files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from binarize.data.reading import read_colours, read_labels
from binarize.errors import DataError

IGNORE = 255
"""Label of pixels that are ignored everywhere."""

Task = Literal["segmentation", "depth", "classification"]
Colour = tuple[int, int, int]
_ERRORS_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What the truth of a segmentation data set means.

    Attributes:
        names: of the classes, by id.
        palette: an (R, G, B) per class for pictures, or empty.
        ignored: values of the files that become `IGNORE`.
        unscored: ids that networks have but no truth uses; no mean counts them.
        mapping: (value, id) for values of the files that are not ids themselves; applied before `ignored`.
        values: the value of each class in the files, where they are not ids; any other value is an error.
            Empty for files of ids.
        coloured: whether files hold colours, so that `values` and `ignored` are colours as of `colour_code`.
    """

    names: tuple[str, ...]
    palette: tuple[Colour, ...] = ()
    ignored: tuple[int, ...] = (IGNORE,)
    unscored: tuple[int, ...] = ()
    mapping: tuple[tuple[int, int], ...] = ()
    values: tuple[int, ...] = ()
    coloured: bool = False

    task: Task = field(default="segmentation", init=False)

    def read(self, path: Path) -> Tensor:
        """Class ids (H, W) int64, `IGNORE` where there is none.

        Raises:
            DataError: the file cannot be read, or holds an id that is not a class.
        """
        return self.ids(self.read_values(path), path)

    def read_values(self, path: Path) -> Tensor:
        """The values (H, W) int64 of a file, or its colours as of `colour_code`.

        Raises:
            DataError: the file cannot be read, or is of another kind.
        """
        return read_colours(path) if self.coloured else read_labels(path)

    def ids(self, values: Tensor, where: Path | str) -> Tensor:
        """Class ids (H, W) int64 for a file's values (H, W) int64.

        Args:
            values: as of `read_values`.
            where: name of the file, for the message.

        Raises:
            DataError: a value is not a class.
        """
        table = sorted(self.by_value().items())
        wrong = (values < 0) | (values >= len(self.names)) if not self.values else torch.ones_like(values) > 0
        labels = values.clone()
        if table:
            keys, ids = (torch.tensor(part) for part in zip(*table, strict=True))
            at = torch.searchsorted(keys, values.contiguous()).clamp_max(len(table) - 1)
            known = keys[at] == values
            labels, wrong = torch.where(known, ids[at], values), wrong & ~known
        if bool(wrong.any()):
            raise DataError(f"{where}: {self._unknown(values, wrong)}")
        return labels

    def by_value(self) -> dict[int, int]:
        """The class id, or `IGNORE`, of each value of the files that is not an id itself."""
        given = dict(self.mapping) | {value: index for index, value in enumerate(self.values)}
        return dict.fromkeys(self.ignored, IGNORE) | given

    def stored(self) -> tuple[int, ...]:
        """The value of each class in files: what `read` gives back as its id."""
        if self.values:
            return self.values
        table = self.by_value()
        found = []
        for index in range(len(self.names)):
            values = [value for value, label in table.items() if label == index]
            found.append(index if table.get(index, index) == index or not values else min(values))
        unique = len(set(found)) == len(found)
        return tuple(found) if unique else tuple(range(len(self.names)))

    def text(self, value: int) -> str:
        """A value of the files as a recipe has it: a number or `[R, G, B]`."""
        return str(list(colour_of(value))) if self.coloured else str(value)

    def _unknown(self, values: Tensor, wrong: Tensor) -> str:
        """The message for values that do not stand for a class."""
        found = sorted(set(values[wrong].tolist()))
        shown = ", ".join(self.text(value) for value in found[:_ERRORS_SHOWN])
        more = "..." if len(found) > _ERRORS_SHOWN else ""
        ignored = f", or {' or '.join(map(self.text, self.ignored))} for pixels to ignore"
        ignored = ignored if self.ignored else ""
        count = int(wrong.sum())
        if not self.values:
            return (
                f"{count} pixels have class id {shown}{more}; expected 0 to {len(self.names) - 1}{ignored}."
                f"{self._hint(values, found)}"
            )
        expected = [self.text(value) for value in self.values]
        several = f", ... ({len(expected)} classes)" if len(expected) > 2 * _ERRORS_SHOWN else ""
        what, option = ("the colour", "colours") if self.coloured else ("the value", "classes")
        entry = f"NAME: {self.text(found[0])}" if self.coloured else f"{found[0]}: NAME"
        return (
            f"{count} pixels have {what} {shown}{more}; expected {', '.join(expected[: 2 * _ERRORS_SHOWN])}"
            f"{several}{ignored}. Data set folder, data.options: `{option}: {{{entry}}}` beside the others "
            f"for one more class, `ignored: [{self.text(found[0])}]` if these pixels are to be ignored."
        )

    def _hint(self, values: Tensor, wrong: list[int]) -> str:
        """What the values look like, and which options of the data set `folder` read them."""
        n, found = len(self.names), sorted(set(values.unique().tolist()) - set(self.ignored))
        if wrong == [IGNORE]:
            also = f", or `labels: {{0: 0, {IGNORE}: 1}}` if they are class 1" if n == 2 else ""
            hint = f"`ignored: {[*self.ignored, IGNORE]}` if these pixels are to be ignored{also}"
        elif wrong == [n] and found[0] > 0:
            hint = f"{_mapping({i + 1: i for i in range(n)})} if ids count from 1 here"
        elif wrong == [n]:
            from_1 = _mapping({0: IGNORE, **{i + 1: i for i in range(n)}})
            hint = (
                f"`classes: {n + 1}` or their names if there are more classes, or {from_1} if ids count from "
                "1 and 0 is to be ignored"
            )
        elif len(found) <= n and len(wrong) >= len(found) - 1:  # at most one value is a class id, usually 0
            hint = f"{_mapping({v: i for i, v in enumerate(found)})} if these values stand for the classes"
        elif found[-1] < IGNORE:
            hint = f"`classes`, at least {found[-1] + 1} or their names, if there are more classes"
        else:
            hint = "`ignored` for values to ignore, `labels` for values that stand for a class"
        return f" Data set folder, data.options: {hint}."


def colour_code(colour: Iterable[int]) -> int:
    """(R, G, B) as one number, 65536 R + 256 G + B."""
    r, g, b = colour
    return r << 16 | g << 8 | b


def colour_of(code: int) -> Colour:
    """The inverse of `colour_code`."""
    return code >> 16, code >> 8 & 255, code & 255


def stored_mask(ids: Tensor, truth: Labels) -> np.ndarray:
    """Class ids (H, W) as the data's files hold them: values (H, W) int64, or colours (H, W, 3) uint8."""
    values = np.array(truth.stored(), dtype=np.int64)[ids.numpy()]
    if not truth.coloured:
        return values
    return np.stack([values >> 16, values >> 8 & 255, values & 255], axis=-1).astype(np.uint8)


def _mapping(labels: Mapping[int, int]) -> str:
    pairs = [f"{value}: {label}" for value, label in labels.items()]
    more = ", ..." if len(pairs) > _ERRORS_SHOWN else ""
    return f"`labels: {{{', '.join(pairs[:_ERRORS_SHOWN])}{more}}}`"
