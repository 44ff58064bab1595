"""What is given in place of a file, a recipe or a run by mistake: the message says what to give."""

from __future__ import annotations

from pathlib import Path

import pytest

from binarize.cli import run
from binarize.errors import near_paths

_RUN = ("runs/good/model.safetensors", "runs/good/log.jsonl")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "nets.py"], "'nets.py' is source code, without weights: give a file that"),
        (["deploy", "nets.py"], "is source code, without weights"),
        (["report", "nets.py"], "is source code, without weights"),
        (["evaluate", "mine.yaml"], "a recipe is for `binarize train`"),
        (["evaluate", "net.pth"], "binarize convert MODEL --checkpoint FILE"),
        (["evaluate", "notes"], "truncated or corrupted: "),
        (["evaluate", "runs/goo"], "Did you mean 'runs/good'?"),
        (["evaluate", "runs"], "Runs in it: runs/good."),
        (["compare", "runs/god"], "Did you mean "),
        (["predict", "runs/good", "mime.yaml"], "Did you mean 'mine.yaml'?"),
        (["train", "nets.py"], "is a network's code, expected a recipe"),
        (["train", "nets.py:unet"], "is a network's code, expected a recipe"),
        (["train", "runs/good"], "`binarize train RECIPE --out runs/good --resume`"),
        (["train", "mine.yml"], "Did you mean 'mine.yaml'?"),
        (["data", "check", "camvidd"], "did you mean 'camvid'"),
        (["data", "check", "phots"], "Did you mean 'photos'?"),
        (["convert", "net.py:unet"], "Did you mean 'nets.py' or"),
        (["summary", "nets.py"], "Error: nets.py: name a callable"),
    ],
)
def test_mistaken_arguments(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Path("runs/good").mkdir(parents=True)
    for name in ("nets.py", "mine.yaml", "net.pth", "notes", *_RUN):
        Path(name).write_text("# a text\n")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert run(arguments) == 2
    assert message in capsys.readouterr().err
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_paths_that_are_near(tmp_path: Path) -> None:
    for name in ("recipe.yaml", "a.png", ".recipe.yml"):
        (tmp_path / name).touch()
    assert near_paths(tmp_path / "recipe.yml") == f" Did you mean {str(tmp_path / 'recipe.yaml')!r}?"
    assert near_paths(tmp_path / "other.png") == ""  # only the ending is the same
    assert near_paths(tmp_path / "none" / "a.png") == ""
