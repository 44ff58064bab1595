#!/usr/bin/env python3
"""Lists the functions of binarize/ that are longer than 80 lines, and fails if there are any.

A function's lines are those from `def` to its end, docstring included, decorators not. A method or a nested
function counts for itself, and within the function around it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

MOST = 80
PACKAGE = Path(__file__).parent.parent / "binarize"


def long_functions(file: Path, most: int) -> Iterator[tuple[int, int, str]]:
    """Lines, first line and name of each function in a file that has more than `most` lines."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > most:
                yield lines, node.lineno, node.name


def main() -> int:
    """Print what is too long; 1 if anything is. An argument is another limit: `function_lengths.py 60`."""
    most = int(sys.argv[1]) if len(sys.argv) > 1 else MOST
    found = 0
    for file in sorted(PACKAGE.rglob("*.py")):
        for lines, start, name in long_functions(file, most):
            found += 1
            print(f"{file.relative_to(PACKAGE.parent)}:{start}: {name} has {lines} lines, more than {most}")
    if found:
        print("Split them where a part has a purpose of its own that can be named.")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
