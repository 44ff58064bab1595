"""Help texts: each fits 80 columns and ends with examples, which hold."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

from binarize import recipes
from binarize.cli import cli, run
from binarize.files import zoo

WIDTH = 80


def commands(command: click.Command, context: click.Context) -> Iterator[tuple[str, click.Command]]:
    """A command and all below it, with the words that call it."""
    yield context.command_path, command
    if isinstance(command, click.Group):
        for name, below in sorted(command.commands.items()):
            if not below.hidden:
                yield from commands(below, click.Context(below, info_name=name, parent=context))


ALL = dict(commands(cli, click.Context(cli, info_name="binarize")))


def examples(command: click.Command) -> list[list[str]]:
    """The words behind `binarize` of each example."""
    text = (command.epilog or "").partition("Examples:\n")[2].replace("\\\n", " ")
    words = [shlex.split(line, comments=True) for line in text.splitlines()]
    assert all(line[0] == "binarize" for line in words if line)
    return [line[1:] for line in words if line]


EXAMPLES = [(path, words) for path, command in ALL.items() for words in examples(command)]


def help_of(path: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert run([*path.split()[1:], "--help"]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("path", ALL)
def test_help_fits_and_ends_with_examples(
    path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    lines = help_of(path, capsys)
    assert [line for line in lines if len(line) > WIDTH] == []
    shown = lines[lines.index("  Examples:") + 1 :]
    assert 1 <= sum(line.startswith("    # ") for line in shown) <= 3
    assert all(re.match(r"    (# \S|binarize |    -)", line) for line in shown)


@pytest.mark.parametrize("path", [path for path, command in ALL.items() if isinstance(command, click.Group)])
def test_lists_of_commands_are_whole(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = help_of(path, capsys)
    listed = lines[lines.index("Commands:") + 1 :]
    assert not [line for line in listed[: listed.index("")] if line.endswith("...")]


def check(words: list[str]) -> None:
    """Fails for commands, options and values that do not exist; files need not exist."""
    command: click.Command = cli
    context = click.Context(cli, info_name="binarize")
    while isinstance(command, click.Group) and words and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
        context = click.Context(command, info_name=command.name, parent=context)
    values, _, _ = command.make_parser(context).parse_args(list(words))
    for parameter in command.get_params(context):
        given = values.get(parameter.name)
        if isinstance(given, (str, tuple, list)) and not isinstance(parameter.type, click.Path):
            parameter.type_cast_value(context, given)


@pytest.mark.parametrize(
    ("path", "words"), EXAMPLES, ids=lambda v: v if isinstance(v, str) else " ".join(v)[:60]
)
def test_examples_have_options_that_exist(path: str, words: list[str]) -> None:
    check(words)
    if path != "binarize" and path != "binarize zoo":
        assert ["binarize", *words][: path.count(" ") + 1] == path.split(), "an example of another command"
    for word in words:
        if word.startswith("zoo:"):
            assert word.removeprefix("zoo:") in zoo.names()
        if re.match(r"(shapes|camvid)/", word):
            recipes.load(word)


QUICK = (
    "doctor",
    "models upernet",
    "methods",
    "methods show reactnet",
    "methods show bidense --set granularity=layer --plot bidense.png",
    "recipes",
    "recipes show shapes/tiny-bidense",
    "zoo",
    "zoo show camvid-bidense",
    "summary zoo:camvid-bidense",
    "data list",
    "data list --json",
    "convert resnet18 --dry-run",
    "init --images photos/images --masks photos/masks --out mine.yaml",
    "data check photos",
)
AFTER_TRAINING = (
    "data floor shapes/tiny-bidense",
    "calibrate runs/tiny-bidense",
    "evaluate runs/tiny-bidense",
    "evaluate runs/tiny-bidense --best",
    "predict runs/tiny-bidense photo.jpg --overlay",
    "deploy runs/tiny-bidense --out packed.safetensors",
    "export runs/tiny-bidense --onnx net.onnx --size 64",
    "verify runs/tiny-bidense",
    "zoo add runs/tiny-bidense --into zoo --name tiny",
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of examples, with images and masks."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for part, shape in (("images", (32, 32, 3)), ("masks", (32, 32))):
        (tmp_path / "photos" / part).mkdir(parents=True)
        for i in range(10):
            image = Image.fromarray(random.integers(0, 2 if part == "masks" else 256, shape, dtype=np.uint8))
            image.save(tmp_path / "photos" / part / f"{i}.png")
    image.resize((64, 64)).convert("RGB").save(tmp_path / "photo.jpg")
    return tmp_path


def test_quick_examples_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = [words for _, words in EXAMPLES]
    for example in QUICK:
        assert shlex.split(example) in known, f"no help text has `binarize {example}`"
        assert run(shlex.split(example)) == 0, capsys.readouterr().err


@pytest.mark.slow
def test_examples_with_a_trained_network_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = [words for _, words in EXAMPLES]
    little = ["--set", "training.epochs=1", "--set", "data.options.length=16", "--set", "training.keep=both"]
    assert run(["train", "shapes/tiny-bidense", *little]) == 0
    for example in AFTER_TRAINING:
        assert shlex.split(example) in known, f"no help text has `binarize {example}`"
        assert run(shlex.split(example)) == 0, capsys.readouterr().err
