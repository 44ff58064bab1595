"""Progress of a training in a few characters, and the options of all commands."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import pytest

from binarize.cli import cli, run
from binarize.cli.output import shows_progress
from binarize.cli.sparkline import WIDTH, Curves, sparkline
from binarize.errors import BinarizeWarning, ConfigError


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1.0], "▁"), ([2.0, 2.0], "▁▁"), ([0.0, 1.0], "▁█"), ([7.0, 0.0, 3.0], "█▁▄"), ([-1.0, -2.0], "█▁")],
)
def test_sparkline(values: list[float], expected: str) -> None:
    assert sparkline(values) == expected


def test_many_values_are_means() -> None:
    assert sparkline([0.0, 2.0, 10.0, 0.0], width=2) == "▁█"
    assert len(sparkline([float(i) for i in range(101)])) == WIDTH
    assert sparkline([float(i) for i in range(101)]) == "▁▂▃▄▅▆▇█"


def test_curves() -> None:
    curves, narrow, plain = Curves("utf-8"), Curves("utf-8", wide=False), Curves("ascii")
    assert curves.text(1.0) == ""
    curves.add({"loss": 3.0, "val": {"miou": 0.1}})
    assert curves.text(1.0).strip() == "█▁"
    curves.add({"loss": 2.0})
    curves.add({"loss": 1.0, "val": {"miou": 0.25}})
    assert curves.text(1.0).split() == ["█▅▁▁", "mIoU", "0.250", "▁█"]
    for miou in (0.1, 0.2):
        narrow.add({"loss": 3.0, "val": {"miou": miou}})
    assert narrow.text(1.0) == "██▁ "
    plain.add({"loss": 3.0})
    assert plain.text(1.0) == ""


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> str:
    """A command that warns, says whether it shows progress, and fails."""
    import click

    @click.command()
    def complain() -> None:
        warnings.warn("look out", BinarizeWarning, stacklevel=1)
        click.echo(f"progress {shows_progress()}")
        raise ConfigError("wrong.")

    monkeypatch.setitem(cli.commands, "complain", complain)
    return "complain"


@pytest.mark.parametrize(
    ("options", "progress", "warned", "traced"),
    [([], True, True, False), (["-q"], False, False, False), (["-v"], True, True, True)],
)
def test_quiet_and_verbose(
    options: list[str],
    progress: bool,
    warned: bool,
    traced: bool,
    command: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert run([*options, command]) == 2
    out, err = capsys.readouterr()
    assert out == f"progress {progress}\n"
    assert ("look out" in err) == warned
    assert ("Traceback" in err) == traced
    assert "Error: wrong." in err


def test_quiet_or_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["-q", "-v", "doctor"]) == 2
    assert "not both" in capsys.readouterr().err


def test_lists_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "convnext_atto", "--json"]) == 0
    assert "convnext_atto" in json.loads(capsys.readouterr().out)
    assert run(["zoo", "show", "camvid-bnn", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "camvid-bnn"


NAMED = [
    (["compare", "RUN"], ("md", "json")),
    (["bench", "test_resnet"], ("json", "png")),
]
"""Commands whose --out names files without their endings."""


@pytest.mark.parametrize(("words", "endings"), NAMED)
def test_files_named_without_their_endings(
    words: list[str], endings: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    assert run([*words, "--out", str(tmp_path / "folder")]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert f"--out '{tmp_path / 'folder'}' is a folder" in error
    assert f"{tmp_path / 'folder' / 'NAME'}" in error
    (tmp_path / f"mine.{endings[1]}").write_text("mine")
    assert run([*words, "--out", str(tmp_path / "mine")]) == 2
    assert "replace it with --force" in " ".join(capsys.readouterr().err.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", f"mine.{endings[1]}"]


def test_pages_and_pictures_are_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, name in (
        (["coverage", "--pattern", "test_resnet", "--markdown"], "page.md"),
        (["bench", "--suite", "--pattern", "resnet18", "--out"], "suite.png"),
    ):
        (tmp_path / name).write_text("mine")
        given = tmp_path / name
        given = given.with_suffix("") if name.endswith(".png") else given
        assert run([*words, str(given)]) == 2
        assert "replace it with --force" in " ".join(capsys.readouterr().err.split())
        assert (tmp_path / name).read_text() == "mine"
