"""An option has one set of names and one kind of value, whichever command has it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from binarize.cli import cli, run

DIFFER = {"--images", "--packed", "--markdown"}
"""What docs/cli.md lists as different from command to command."""


def options(command: click.Command, path: str = "binarize") -> Iterator[tuple[str, click.Option]]:
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from options(below, f"{path} {name}")
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            yield path, parameter


def test_names_and_kinds_are_the_same_everywhere() -> None:
    found: dict[str, dict[tuple[frozenset[str], bool], list[str]]] = defaultdict(lambda: defaultdict(list))
    for path, option in options(cli):
        if path != "binarize zoo add":  # its --into is --out by another name
            found[max(option.opts, key=len)][frozenset(option.opts), option.is_flag].append(path)
    assert {name: dict(forms) for name, forms in found.items() if len(forms) > 1 and name not in DIFFER} == {}


def test_the_page_lists_those_that_differ() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    section = page.partition("## Options that differ")[2].partition("\n## ")[0]
    assert all(f"`{name}`" in section for name in DIFFER)


def test_bare_name_of_the_zoo(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", "camvid-bnn"]) == 2
    assert "zoo:camvid-bnn" in capsys.readouterr().err


@pytest.mark.parametrize(("instruction", "words"), [("bash_source", ""), ("bash_complete", "binarize ins")])
def test_shell_completion(instruction: str, words: str) -> None:
    settings = {"_BINARIZE_COMPLETE": instruction, "COMP_WORDS": words, "COMP_CWORD": "1"}
    made = subprocess.run(
        [sys.executable, "-c", "from binarize.cli import main; main()"],
        env={**os.environ, **settings}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ("plain,inspect" if words else "_binarize_completion") in made.stdout


def test_train_prints_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    few = ["--set", "training.epochs=1", "--set", "data.options.length=16"]
    assert run(["train", "shapes/tiny-bidense", *few, "--json"]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["epochs"] == 1
    assert [network["title"] for network in document["networks"]] == ["best", "last"]
    assert all(Path(network["file"]).is_file() for network in document["networks"] if network["file"])
    assert "epoch 1/1" in err
