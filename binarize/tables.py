"""What all printed tables share: names that break at dots, colours, arrows, the plain form."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.style import Style

PLAIN_WIDTH = 80

BINARY, FLOAT, SLOWER, WORSE = "green", "none", "yellow", "red"
"""Colours on a terminal: of binary layers, of float ones, of what is slower than it could be, of errors."""

UP, DOWN = "↑", "↓"
"""Behind the name of a figure: better if higher, better if lower."""

_HIGHER = (
    "miou",
    "pixel_accuracy",
    "class_iou",
    "delta1",
    "delta2",
    "delta3",
    "top1",
    "top5",
    "class_accuracy",
)
_LOWER = ("abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog", "loss")
_ASCII = {UP: "^", DOWN: "v", "±": "+-", "…": "...", "→": "->", "─": "-", "━": "="}


def better(figure: str) -> str:
    """An arrow for the name of a figure (`miou`), with a space in front; empty if neither is better."""
    return f" {UP}" if figure in _HIGHER else f" {DOWN}" if figure in _LOWER else ""


class Name:
    """A dotted name in a cell: broken behind dots and spaces only, so that each part can be read and copied.

    Args:
        text: the name.
        style: of rich.
        behind: characters that a line may end with, beside spaces.
    """

    def __init__(self, text: str, style: str = "", *, behind: str = ".") -> None:
        self._text = text
        self._parts = _parts(text, behind)
        self._style = style

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        most = min(len(self._text), options.max_width)
        return Measurement(min(max(map(len, self._parts)), most), most)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        style = console.get_style(self._style) if self._style else Style.null()
        for line in _filled(self._parts, options.max_width):
            yield Segment(line, style)
            yield Segment.line()


def widest_part(names: Iterable[str]) -> int:
    """Length of the longest part of any of the names: the least width of their column."""
    return max((len(part) for name in names for part in _parts(name)), default=1)


def _parts(name: str, behind: str = ".") -> list[str]:
    ends = re.escape(behind)
    return re.findall(rf"[^{ends} ]+[{ends}]?| +|[{ends}]", name) or [""]


def _filled(parts: list[str], width: int) -> list[str]:
    lines = [""]
    for part in parts:
        if lines[-1] and len(lines[-1]) + len(part.rstrip()) > width:
            lines.append("")
        while len(part) > width:  # nothing to break at: only a narrower part would fit
            lines[-1] += part[: width - len(lines[-1])]
            part = part[width:]
            lines.append("")
        lines[-1] += part if lines[-1] else part.lstrip()
    return [line.rstrip() for line in lines if line.strip()] or [""]


def plain(renderable: Any, width: int = PLAIN_WIDTH) -> str:
    """The text that `str()` gives for an object that prints as a table: always without colours."""
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=width,
        color_system=None,
        force_terminal=False,
        highlight=False,
        legacy_windows=False,
    )
    console.print(renderable)
    return stream.getvalue()


def write_what_can_be(stream: Any) -> None:
    """Make a text stream print substitutes for characters that its encoding lacks."""
    encoding = getattr(stream, "encoding", None) or ""
    if encoding.lower().replace("-", "").startswith("utf") or not hasattr(stream, "reconfigure"):
        return
    codecs.register_error("binarize", _replaced)
    stream.reconfigure(errors="binarize")


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    given = error.object[error.start : error.end]
    return "".join(_ASCII.get(character, "?") for character in given), error.end
