"""The field's terms and plain sentences: words that the project does not use, and what it writes instead.

Looked for in the pages, in CHANGELOG's newest part, and in docstrings, comments and messages of the package.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

import pytest

from binarize.graph.plan_sentences import EARLIER

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "recipes" / "README.md",
    ROOT / "zoo" / "README.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if "examples" not in path.parts),
]
SCRIPTS = sorted([*(ROOT / "binarize").rglob("*.py"), *(ROOT / "docs").glob("*.py")])

WORDS = {
    r"joins? of (?:maps?|signals?|branches)": "concatenation, or addition",
    r"(?<!there )(?<!here )(?:is|are|was|were) no (?!(?:longer|more|less|fewer|better|worse|faster|slower|"
    r"larger|smaller|other)\b)\w+": "is not a ..., are not ...",
    r"(?<!there )(?:is|are) none of": "is not one of",
    r"lets? go(?: of)?(?! to)": "release, close, or destroy (a process group)",
    r"the ways?(?! (?:to|that|in which)\b)": "bypass, path, or sign",
    r"(?:the|a) seen": "what was read, or used",
    r"seen from (?:the|this|there|here|its)": "relative to",
    r"cannot be told(?: apart)?": "is unknown, or cannot be distinguished",
    r"(?:some|any|no)body (?:wants?|asks?|needs?|reads?|uses?|writes?)": "is (not) used, on first use",
    r"(?:take|takes|after|for|of) so many (?!that\b)\w+": "this many",
    r"go(?:es)? on (?:with|by|in|at|where)": "continue",
    r"never looks? at (?:the|an) images?": "does not depend on the image",
    r"blinds|lifts": "removes_sign_information, midpoint",
}
"""Patterns, in which a space is any white space, and what to write instead."""

PATTERNS = {re.compile(rf"\b(?:{words})\b", re.IGNORECASE): instead for words, instead in WORDS.items()}


def lines_of(text: str, first: int = 1) -> list[tuple[int, str]]:
    return list(enumerate(text.splitlines(), first))


def prose(page: Path) -> Iterator[list[tuple[int, str]]]:
    """A page without its blocks of code; of CHANGELOG the part above the second heading of a version."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```$", lambda m: "\n" * m[0].count("\n"), text, flags=re.DOTALL | re.MULTILINE)
    if page.name == "CHANGELOG.md":
        text = "\n## ".join(text.split("\n## ")[:2])
    paragraph: list[tuple[int, str]] = []
    for number, line in lines_of(text):
        if line.strip():
            paragraph.append((number, re.sub(r"`[^`]*`", "`", line)))
        else:
            yield paragraph
            paragraph = []
    yield paragraph


def texts(script: Path) -> Iterator[list[tuple[int, str]]]:
    """Docstrings, parts of messages and comments of a module."""
    source = script.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        value = node.value if isinstance(node, ast.Constant) else None
        if isinstance(value, str) and " " in value and value not in EARLIER:
            yield lines_of(value, node.lineno)
    comments: list[tuple[int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if comments and comments[-1][0] < token.start[0] - 1:
                yield comments
                comments = []
            comments.append((token.start[0], token.string.lstrip("# ")))
    yield comments


def found(lines: list[tuple[int, str]]) -> Iterator[tuple[int, str, str]]:
    """Line, words and what to write instead, also where the words stand on two lines."""
    starts, numbers, text = [], [], ""
    for number, line in lines:
        starts.append(len(text))
        numbers.append(number)
        text += " ".join(line.split()) + " "
    for pattern, instead in PATTERNS.items():
        for match in pattern.finditer(text):
            yield numbers[bisect_right(starts, match.start()) - 1], match[0], instead


def report(path: Path, parts: Iterator[list[tuple[int, str]]]) -> list[str]:
    name = path.relative_to(ROOT)
    return [f"{name}:{n}: {words!r}: write {instead}" for part in parts for n, words, instead in found(part)]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_pages(page: Path) -> None:
    faults = report(page, prose(page))
    assert not faults, "\n".join(faults)


def test_docstrings_comments_and_messages() -> None:
    faults = [fault for script in SCRIPTS for fault in report(script, texts(script))]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A crop is no box.", "is no box"),
        ("values that are\n    no labels", "are no labels"),
        ("the join of maps", "join of maps"),
        ("seen from the recipe's folder", "seen from the"),
        ("its channels cannot be told", "cannot be told"),
        ("take so many images", "take so many images"),
        ("a run goes on with its weights", "goes on with"),
    ],
)
def test_what_is_found(text: str, words: str) -> None:
    assert [entry[1] for entry in found(lines_of(text))] == [words]


@pytest.mark.parametrize(
    "text",
    [
        "There is no such file; is there none?",
        "It is no longer there, and is no larger than before.",
        "if nobody is there, the value is None",
        "so many channels that rounding matters",
        "a stage on the way to a binary network",
        "images that were seen in training",
        "told apart by their colours",
    ],
)
def test_what_is_not_found(text: str) -> None:
    assert not list(found(lines_of(text)))
