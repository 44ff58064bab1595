"""What commands print: tables and text on stdout, progress on stderr, numbers as short text."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

PIPE_WIDTH = 80


def console(stream: IO[str] | None = None) -> Console:
    """A console on `stream` (stdout): colours on a terminal only; elsewhere 80 columns of plain text."""
    from rich.console import Console

    stream = stream or sys.stdout
    if stream is not None and stream.isatty():
        return Console(file=stream, highlight=False)
    # all set explicitly, because rich also reads FORCE_COLOR, TTY_COMPATIBLE and COLUMNS
    return Console(
        file=stream,
        force_terminal=False,
        color_system=None,
        width=PIPE_WIDTH,
        highlight=False,
        legacy_windows=False,
    )


def say(text: str = "", stream: IO[str] | None = None) -> None:
    """One line on `stream` (stdout), never broken: paths in it can be copied."""
    console(stream).print(text, soft_wrap=True, markup=False)
    (stream or sys.stdout).flush()  # in a pipe, too, it is visible before long work


def tell(text: str, style: str = "") -> None:
    """Sentences on stdout: lines end between words, as wide as the terminal is (80 columns elsewhere).

    What follows a dash, or one or two words with spaces behind them (`written  FILE`), is indented.
    """
    out = console()
    head = re.match(r"- |\S+( \S+)?  +", text)
    indent = " " * (head.end() if head else 0)
    lines = textwrap.wrap(
        text, out.width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    out.print("\n".join(lines), style=style or None, soft_wrap=True, markup=False)
    sys.stdout.flush()


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")


def shows_progress() -> bool:
    """Whether progress is shown on stderr: on a terminal, without `binarize --quiet`."""
    context = click.get_current_context(silent=True)
    chosen = context.obj if context is not None else None
    return sys.stderr.isatty() and not (isinstance(chosen, dict) and chosen.get("quiet"))


@contextlib.contextmanager
def progress(text: str) -> Iterator[None]:
    """Show `text` with a spinner on stderr during long work, if stderr is a terminal.

    Output of the work on stdout is sent to stderr: stdout is for results.
    """
    with contextlib.ExitStack() as stack:
        if shows_progress():
            stack.enter_context(console(sys.stderr).status(text))
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield


def progress_bar(text: str, *, counts: bool = False, shown: bool = True, transient: bool = True) -> Progress:
    """A bar on stderr with the remaining time, if stderr is a terminal.

    Args:
        text: before the bar; may name fields of the task, as rich does: "{task.description}".
        counts: also show how many of how many are done.
        shown: False for a process that reports nothing.
        transient: remove the bar at the end.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    numbers = [MofNCompleteColumn()] if counts else []
    columns = (TextColumn(text), BarColumn(), *numbers, TimeRemainingColumn())
    disable = not (shows_progress() and shown)
    return Progress(*columns, console=console(sys.stderr), disable=disable, transient=transient)


def counted(count: int, what: str) -> str:
    """A number with its noun: `1 image`, `2 images`."""
    return f"{count} {what}{'s' * (count != 1)}"


def size(count: float) -> str:
    """A number of bytes as short text: `1.5 MB`."""
    if count < 1000:
        return f"{count:.0f} bytes"
    units = ("kB", "MB", "GB")
    power = 0
    count /= 1000
    while count >= 1000 and power + 1 < len(units):
        count /= 1000
        power += 1
    return f"{count:.1f} {units[power]}"
