"""Every block of code in the README and the pages of docs/ runs, or at least has options that exist.

An HTML comment in front of a block says otherwise. With `<!-- run: no, REASON -->` only the options of its
commands are checked; `<!-- run: slow -->` runs in the slow tests, and so does
`<!-- run: slow, with fewer epochs: OPTIONS -->`,
where `train` gets these options.
"""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import click
import pytest
import yaml
from rich.console import Console

from binarize import recipes
from binarize.cli import cli, run
from binarize.layers.recipe import METHODS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OTHER_PROGRAMS = ("pip", "pytest", "echo", "python", "zensical", ".ci/run")
NAME = "page_of_docs"
FOUND = re.compile(
    r"^(?:<!-- run: (?P<mark>.*?) -->\n)?```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True)
class Block:
    """A block of code and its mark."""

    page: str
    line: int
    kind: str
    text: str
    mark: str

    @property
    def runs(self) -> bool:
        return not self.mark.startswith("no,")

    @property
    def slow(self) -> bool:
        return self.mark.startswith("slow")

    @property
    def fewer(self) -> list[str]:
        return shlex.split(self.mark.partition("with fewer epochs: ")[2])


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in FOUND.finditer(text):
        line = text.count("\n", 0, match.start("kind")) + 1
        mark = match["mark"] or ""
        yield Block(page.name, line, match["kind"], match["text"], mark)


def commands(text: str) -> Iterator[list[str]]:
    """The words of each line of a shell block, without assignments in front of the program."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r" && | \| ", line.partition(" > ")[0]):
            words = shlex.split(part, comments=True)
            while words and re.fullmatch(r"\w+=\S*", words[0]):
                words = words[1:]
            if words:
                yield words


def arguments(words: list[str]) -> list[str] | None:
    """Those of binarize; None for other programs."""
    if words[0] == "binarize":
        return words[1:]
    if "binarize" in words and words[words.index("binarize") - 1] == "-m":
        return words[words.index("binarize") + 1 :]
    assert words[0] in OTHER_PROGRAMS, f"which program is {words[0]}?"
    return None


def check_options(words: list[str]) -> None:
    """Fails for a command or an option that does not exist."""
    command: click.Command = cli
    context = click.Context(cli, info_name="binarize")
    while isinstance(command, click.Group) and words:
        found = command.get_command(context, words[0])
        if found is None:
            break
        command, words = found, words[1:]
        context = click.Context(command, info_name=command.name, parent=context)
    assert command is not cli or not words, words
    command.make_parser(context).parse_args(list(words))


ALL = [block for page in PAGES for block in blocks(page)]


@pytest.mark.parametrize("block", ALL, ids=lambda block: f"{block.page}-{block.line}")
def test_form(block: Block) -> None:
    assert block.mark == "" or re.match(r"no, \w|slow$|slow, with fewer epochs: --", block.mark), block.mark
    match block.kind:
        case "python":
            compile(block.text, block.page, "exec")
        case "bash":
            for words in commands(block.text):
                if (found := arguments(words)) is not None:
                    check_options(found)
        case "yaml":
            assert yaml.safe_load(block.text)
        case "toml":
            assert tomllib.loads(block.text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_outside_of_blocks(page: Path) -> None:
    """Indented ones, and those in blocks without a language: their options exist."""
    outside = FOUND.sub(lambda m: "" if m["kind"] else f"\n    {m['text']}", page.read_text(encoding="utf-8"))
    for line in re.findall(r"^ +(binarize .*(?:\\\n.*)*)", outside.replace("\n", "\n    "), re.MULTILINE):
        if "[" not in line:  # else it is a form of commands
            for words in commands(line):
                check_options(words[1:])


@pytest.mark.parametrize("block", [b for b in ALL if b.kind == "yaml" and "extends:" in b.text and b.runs])
def test_recipes_are_recipes(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(block.text, encoding="utf-8")
    recipes.load(path)


def run_page(page: Path, *, slow: bool) -> None:
    names = vars(sys.modules[NAME])
    names["print"] = Console(width=80, quiet=True).print
    for block in blocks(page):
        if not block.runs or (block.slow and not slow):
            continue
        where = f"{block.page}, line {block.line}"
        if block.kind == "python":
            exec(compile("\n" * block.line + block.text, block.page, "exec", dont_inherit=True), names)
        elif block.kind == "bash":
            for words in commands(block.text):
                found = arguments(words)
                if found is not None:
                    more = block.fewer if found[0] == "train" else []
                    assert run([*found, *more]) == 0, f"{where}: {' '.join(words)}"


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In an empty folder; methods that a page registers are gone afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, NAME, ModuleType(NAME))  # dataclasses look there
    with monkeypatch.context() as inside:
        METHODS.names()
        inside.setattr(METHODS, "_entries", dict(METHODS._entries))
        yield


def has(page: Path, *, slow: bool) -> bool:
    return any(b.runs and b.slow == slow and b.kind in ("python", "bash") for b in blocks(page))


@pytest.mark.parametrize("page", [p for p in PAGES if has(p, slow=False)], ids=lambda page: page.name)
def test_blocks_run(page: Path, alone: None) -> None:
    run_page(page, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if has(p, slow=True)], ids=lambda page: page.name)
def test_slow_blocks_run(page: Path, alone: None) -> None:
    run_page(page, slow=True)
