"""All commands on a run of an own network: from another folder, moved, with its code changed or gone."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import own_nets
import pytest
import small_net
import yaml
from PIL import Image

import binarize
from binarize import recipes
from binarize.cli import run
from binarize.comparison import paper_table
from binarize.errors import BinarizeError, BinarizeWarning
from binarize.training.loop import train

COMMANDS = {
    "evaluate": "evaluate {binary}",
    "evaluate best": "evaluate {binary} --best",
    "predict": "predict {binary} {image} --out made --panel --with {float}",
    "compare": "compare {float} {binary}",
    "summary": "summary {binary}",
    "bench": "bench {binary} --rounds 1 --passes 1 --against eager --size 32",
    "deploy": "deploy {binary} --out packed.safetensors",
    "export": "export {binary} --onnx net.onnx --out p.safetensors",
    "verify": "verify {binary} --count 1",
    "inspect": "inspect {float} {binary} --what entropy,weights,bypass --images 4",
    "report": "report {binary} --images 1 --no-inspect",
    "calibrate": "calibrate {binary} --batches 1",
    "tables": "tables 2 --runs {runs}",
    "start_from and teacher": "train {recipe} --out again --set training.start_from={float} --set "
    "training.distillation.teacher={float}",
    "go on": "train {recipe} --out {binary} --resume",
}
QUICK = ("evaluate", "predict", "compare", "summary", "start_from and teacher")
WITHOUT_CODE = ("tables", "go on")
"""What needs no network of these files: no row of the tables is such a run, and the recipe names the code."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float and a binary run of a network in a folder of its own."""
    root = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(root / "config"))
        (root / "project").mkdir()
        own_nets.write(root / "project")
        values = small_net.values(epochs=1)
        values["data"]["options"] = {"size": [32, 32], "length": 8, "number": 3}
        values["network"] = {"name": "nets.py:unet", "options": {"width": 4}}
        (root / "project/own.yaml").write_text(yaml.safe_dump(values))
        for name, settings in (("float", ["method=null"]), ("binary", [])):
            train(recipes.load(root / "project/own.yaml", settings), root / "project/runs" / name)
    Image.new("RGB", (32, 32)).save(root / "image.png")
    return root


@pytest.fixture
def call(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Calls a command in another folder, on a copy of the runs; its status, and what it printed."""
    monkeypatch.delenv("BINARIZE_TRUST_CODE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(project / "config"))
    costs = {name: {"params_k": 1.0, "ops_g": 1.0} for name in ("paper", "honest")}  # counting takes minutes
    monkeypatch.setattr(paper_table, "count_rows", lambda table: ((row, costs) for row in table.rows))
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree(project / "project/runs", tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "elsewhere")

    def of(name: str) -> tuple[int, str]:
        places = {"runs": tmp_path / "moved", "recipe": project / "project/own.yaml"}
        places |= {"image": project / "image.png"}
        places |= {kind: tmp_path / "moved" / kind for kind in ("float", "binary")}
        status = run(COMMANDS[name].format(**places).split())
        printed = capsys.readouterr()
        return status, " ".join((printed.out + printed.err).split())

    return of


@pytest.mark.parametrize("name", [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in COMMANDS
])  # fmt: skip
def test_from_another_folder_and_after_the_run_was_moved(
    name: str, call: Callable[..., tuple[int, str]]
) -> None:
    status, printed = call(name)
    assert status == 0, printed


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in WITHOUT_CODE])
def test_the_code_is_gone(
    name: str, project: Path, tmp_path: Path, call: Callable[..., tuple[int, str]]
) -> None:
    code, kept = project / "project/nets.py", tmp_path / "kept.py"
    shutil.move(code, kept)
    try:
        status, printed = call(name)
    finally:
        shutil.move(kept, code)
    assert status == 2, printed
    assert "nets.py" in printed
    assert "is not there any more" in printed or "there is no file" in printed
    assert "Traceback" not in printed


def test_another_account_gives_the_network(
    project: Path, tmp_path: Path, call: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another"))
    for name in ("compare", "inspect"):
        status, printed = call(name)
        assert status == 2
        assert "This account did not train it" in printed
        monkeypatch.setitem(
            COMMANDS, name, f"{COMMANDS[name]} --model {project}/project/nets.py:unet?num_classes=6&width=4"
        )
        status, printed = call(name)
        assert status == 0, printed
    status, printed = call("start_from and teacher")
    assert status == 0, printed
    assert "distillation.teacher is built by the recipe's network" in printed


@pytest.mark.parametrize(("text", "message"), [
    (own_nets.TEXT + "\n# a remark\n", None),
    (own_nets.TEXT.replace("width=8", "width=8, more=1"), None),
    (own_nets.TEXT.replace("def unet(", "def renamed("), "has no 'unet'"),
    (own_nets.TEXT.replace("def unet(num_classes, width=8)", "def unet(num_classes, wide=8)"), "'width'"),
    (own_nets.TEXT.replace("self.head = nn.Conv2d(width", "self.top = nn.Conv2d(width"), "head"),
    ("def unet(:", "SyntaxError"),
])  # fmt: skip
def test_the_code_was_changed(
    text: str, message: str | None, project: Path, call: Callable[..., tuple[int, str]]
) -> None:
    code = project / "project/nets.py"
    before = code.read_text()
    assert text != before
    code.write_text(text)
    try:
        for name in ("compare", "evaluate"):
            status, printed = call(name)
            assert "nets.py was changed after the training" in printed
            assert "Traceback" not in printed
            assert (status == 0) == (message is None), printed
            assert message is None or message in printed
        expected = contextlib.nullcontext() if message is None else pytest.raises(BinarizeError)
        with pytest.warns(BinarizeWarning, match="was changed after"), expected:
            binarize.load(project / "project/runs/binary/model.safetensors")
    finally:
        code.write_text(before)
