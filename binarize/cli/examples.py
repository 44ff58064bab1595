"""Examples at the end of a help text."""

from __future__ import annotations

import inspect
import textwrap


def examples(commands: str) -> str:
    """The `epilog` of a command: lines to copy, as they are.

    Args:
        commands: at most three, each below a line `# what it is for`; 76 columns wide.
    """
    return "\b\nExamples:\n" + textwrap.indent(inspect.cleandoc(commands), "  ")
