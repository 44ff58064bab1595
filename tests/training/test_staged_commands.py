"""All commands on a run in stages: on the whole, and on each stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import small_net
from PIL import Image
from small_net import values

from binarize import recipes
from binarize.cli import run
from binarize.comparison import paper_table
from binarize.comparison.runs import find_runs
from binarize.inspect.subject import load_networks, load_subjects
from binarize.training.staged import train

STAGES = {
    "float": {"binary": "none"},
    "half": {"binary": "activations", "training": {"distillation": {"teacher": "stage:float", "hard": 0}}},
    "all": {"training": {"distillation": {"teacher": "stage:float", "features": 0.5}, "calibrate": 2}},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("staged")
    plain = {**values(epochs=4), "stages": STAGES}
    plain["data"]["options"]["length"] = 8
    train(recipes.validate(plain, "a test"), root / "runs/whole")
    train(recipes.validate({**plain, "stages": {}}, "a test"), root / "runs/plain")
    Image.new("RGB", (32, 32)).save(root / "image.png")
    return root / "runs/whole"


QUICK = ("evaluate {run}", "tables 2 --runs {runs}", "compare {run} {runs}/plain")
SLOW = (
    *("evaluate {run}/half", "evaluate {run} --best"),
    "predict {run} {root}/image.png --out made --panel --with {run}/float --with {run}/half",
    "inspect {run} --images 4 --out looked",
    "inspect {run}/float {run}/all {run} --images 4 --what bypass,maps",
    "report {run} --images 1",
    "report {run}/half --images 1 --out half.html",
    "report {run}/float --images 1 --out float.html",
    "tables 3 --runs {runs} --json",
    "compare {run}/float {run}/half {run}/all {run}",
    *("summary {run} --model {net}", "summary {run}/half --model {net}"),
    *("deploy {run} --out packed.safetensors", "verify {run} --count 1", "calibrate {run} --batches 1"),
    "bench {run} --rounds 1 --passes 1 --against eager --size 32 --model {net}",
)


@pytest.mark.parametrize("command", [*QUICK, *(pytest.param(text, marks=pytest.mark.slow) for text in SLOW)])
def test_every_command(
    command: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    costs = {name: {"params_k": 1.0, "ops_g": 1.0} for name in ("paper", "honest")}  # counting takes minutes
    monkeypatch.setattr(paper_table, "count_rows", lambda table: ((row, costs) for row in table.rows))
    net = f"{Path(small_net.__file__)}:small?encoder=none&num_classes=6"  # a class of the tests
    text = command.format(run=whole, runs=whole.parent, root=whole.parent.parent, net=net)
    assert run(text.split()) == 0, capsys.readouterr().err


def test_stages_are_no_runs_of_their_own_in_tables(whole: Path) -> None:
    found, faults = find_runs(whole.parent)
    assert [Path(run.place).name for run in found] == ["plain", "whole"]
    assert not faults


def test_a_report_shows_all_stages(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["report", str(whole), "--images", "0", "--no-inspect"]) == 0
    page = Path("report.html").read_text()
    for stage in STAGES:
        assert f"{stage}:" in page


def test_the_rows_of_stages_are_told_apart(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = [str(whole / stage) for stage in STAGES]
    assert run(["compare", *parts, str(whole), str(whole.parent / "plain"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert len({row["label"] for row in rows}) == len(rows)
    seconds = {row["label"]: row["seconds"] for row in rows}
    assert len(rows) == 5, seconds


def test_the_start_of_stages_is_not_the_seeds(whole: Path) -> None:
    """The last stage began with the weights of the one before: latent weights are not compared to a start."""
    (subject,) = load_subjects([whole], ["whole"], load_networks([whole]), images=2)
    start, why = subject.start()
    assert start is None
    assert "stage" in why
