"""A section of a report: one picture, the numbers in it, and what they say."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA = 1
"""Version of the form of the JSON documents."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """One analysis, of one or several networks.

    Attributes:
        name: of its files: `entropy`, or `parameters-bidense` where each network has its own picture.
        analysis: one of `binarize.inspect.ANALYSES`.
        title: a few words.
        figure: a figure of matplotlib.
        findings: sentences.
        rows: the numbers as a table, all with the same keys.
        data: the numbers as arrays, by network.
        warnings: sentences on what is probably wrong; not among `findings`.
    """

    name: str
    analysis: str
    title: str
    figure: Figure
    findings: tuple[str, ...]
    rows: Sequence[Mapping[str, Any]]
    data: Mapping[str, Any]
    warnings: tuple[str, ...] = ()

    def picture(
        self, form: str = "png", *, clear: bool = False, dark: bool = False, narrow: bool = False
    ) -> bytes:
        """The figure as a file; equal figures give equal bytes.

        Args:
            form: `png`, `svg` or `pdf`.
            clear: without a background.
            dark: for a dark page.
            narrow: for a phone, with panels below each other.
        """
        import matplotlib as mpl

        from binarize.inspect.restyle import restyled

        data = io.BytesIO()
        metadata = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
        with mpl.rc_context({"svg.hashsalt": "binarize", "svg.fonttype": "none"}):
            _literally(self.figure)
            figure = restyled(self.figure, dark=dark, narrow=narrow) if dark or narrow else self.figure
            figure.savefig(data, format=form, metadata=metadata[form], transparent=clear)
        return data.getvalue()

    def document(self) -> dict[str, Any]:
        """All but the figure, as JSON holds it; NaN becomes None."""
        return {
            "schema": SCHEMA,
            "analysis": self.analysis,
            "title": self.title,
            "findings": list(self.findings),
            "warnings": list(self.warnings),
            "data": plain_values(self.data),
        }

    def json(self) -> bytes:
        """`document` as a file."""
        return (json.dumps(self.document(), allow_nan=False) + "\n").encode()

    def csv(self) -> bytes:
        """`rows` as a file; empty cells where there is no number."""
        text = io.StringIO()
        names = list(self.rows[0]) if self.rows else []
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            writer.writerow({k: "" if v is None else v for k, v in plain_values(row).items()})
        return text.getvalue().encode()


def _literally(figure: Figure) -> None:
    """Write every text as it is: names of networks and layers may hold `$`, which begins a formula.

    Only numbers of logarithmic axes are formulas.
    """
    from matplotlib.text import Text

    kept: set[int] = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() != "linear":
                kept |= {id(text) for text in (*axis.get_ticklabels(), *axis.get_ticklabels(minor=True))}
    for text in figure.findobj(Text):
        if isinstance(text, Text) and id(text) not in kept:
            text.set_parse_math(False)


def plain_values(value: Any) -> Any:
    """Arrays as lists, six significant digits, None for what is not a finite number."""
    if isinstance(value, Mapping):
        return {str(key): plain_values(one) for key, one in value.items()}
    if isinstance(value, np.ndarray):
        return plain_values(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain_values(one) for one in value]
    if isinstance(value, np.generic):
        return plain_values(value.item())
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
