"""train, evaluate, recipes and data, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import small_net
import yaml
from PIL import Image

from binarize.cli import run
from binarize.data.reading import read_depth, read_image, read_labels


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(small_net.values(epochs=2)))
    return path


def test_train_then_evaluate(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "run")
    assert run(["train", str(recipe), "--out", out, "--set", "training.lr=1e-2"]) == 0
    printed = capsys.readouterr().out
    assert "epoch 2/2  loss " in printed
    assert "\x1b" not in printed
    assert max(len(line) for line in printed.splitlines() if line.startswith("epoch")) <= 80
    assert run(["train", str(recipe), "--out", out, "--set", "training.lr=1e-2", "--resume"]) == 0
    assert "complete run of 2 epochs" in capsys.readouterr().out
    assert run(["evaluate", out, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert run(["evaluate", f"{out}/model.safetensors", "--split", "val", "--json"]) == 0
    on_val = json.loads(capsys.readouterr().out)
    assert on_val["miou"] == log[-1]["val"]["miou"]  # the file holds what was measured
    assert found["split"] == "test"
    assert run(["evaluate", out, "--flip", "--scales", "0.5,1"]) == 0
    table = capsys.readouterr().out
    assert "background" in table
    assert max(map(len, table.splitlines())) <= 80


@pytest.mark.parametrize("task", ["segmentation", "depth"])
def test_predict(task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = small_net.values(epochs=1)
    values["data"]["options"]["task"] = task
    values["data"]["evaluation"]["resize"] = [24, 40]
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(values))
    assert run(["train", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "run")]) == 0
    (tmp_path / "in").mkdir()
    Image.new("RGB", (50, 30), "red").save(tmp_path / "in/a b.jpg")
    Image.new("L", (7, 9)).save(tmp_path / "in/grey.png")
    command = ["predict", str(tmp_path / "run"), str(tmp_path / "in"), str(tmp_path / "in/*.jpg")]
    assert run([*command, "--out", str(tmp_path / "out"), "--overlay", "--panel"]) == 0
    names = {p.name for p in (tmp_path / "out").iterdir()}
    kinds = ("", "-overlay", "-panel", *(["-colour"] if task == "depth" else []))
    assert names == {f"{stem}{kind}.png" for stem in ("a b", "grey") for kind in kinds}
    if task == "depth":
        found = read_depth(tmp_path / "out/a b.png", 1000.0)
        assert 0.001 <= found.min() <= found.max() <= 10.0
    else:
        found = read_labels(tmp_path / "out/a b.png")
        assert 0 <= found.min() <= found.max() <= 5
    assert found.shape == (30, 50)
    assert read_image(tmp_path / "out/grey-panel.png").shape == (3, 9, 7 + 4 + 7)
    capsys.readouterr()
    assert run([*command, "--out", str(tmp_path / "out")]) == 2
    assert "exists; replace it with --force" in capsys.readouterr().err
    Image.new("L", (7, 9)).save(tmp_path / "grey.png")
    assert run([*command, str(tmp_path / "grey.png"), "--out", str(tmp_path / "more")]) == 2
    assert "would be written to the same files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "shapes/tiny-bidens"], "did you mean 'shapes/tiny-bidense'"),
        (["train", "{recipe}", "--set", "training.lrr=1"], "did you mean lr?"),
        (["train", "{recipe}", "--set", "method.name=bidens"], "did you mean 'bidense'"),
        (["train", "{recipe}", "--set", "data.options.tsk=depth"], "did you mean 'task'"),
        (
            ["train", "{recipe}", "--set", "data.options.length=many"],
            "length: input should be a valid integer",
        ),
        (["train", "{recipe}", "--set", "data.test=tset"], "did you mean 'test'"),
        (["train", "{recipe}", "--set", "about=2001-99-99"], "is no YAML value"),
        (["train", "{recipe}", "--set", "training.start_from=nothing.pth"], "nothing.pth"),
        (["train", "{recipe}", "--out", "/proc/nothing/run"], "cannot make the folder"),
        (["evaluate", "nothing.safetensors"], "no such file"),
        (["predict", "nothing.safetensors", "{recipe}"], "no such file"),
        (["predict", "nothing.safetensors", "*.gif"], "no file matches"),
        (["evaluate", "{recipe}"], "small.yaml"),
        (["evaluate", "{recipe}", "--scales", "0,1"], "expected numbers from 0.1 to 10"),
        (["data", "check", "{recipe}", "--set", "data.name=camvid"], "camvid"),
    ],
)
def test_bad_input_is_one_message_and_nothing_is_written(
    arguments: list[str],
    message: str,
    recipe: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(recipe.parent)
    monkeypatch.delenv("BINARIZE_DATA", raising=False)
    assert run([a.format(recipe=recipe) for a in arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert list(recipe.parent.rglob("*")) == [recipe]


def test_lists(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipes"]) == 0
    assert run(["data", "list"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
    assert run(["recipes", "show", "shapes/tiny-bidense", "--set", "training.epochs=7"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["training"]["epochs"] == 7
    assert run(["data", "list", "--json"]) == 0
    assert "camvid" in capsys.readouterr().out


def test_data_check_names_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "val", "test"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{split}.png")
        Image.new("L", (8, 8), 12 if split == "val" else 3).save(tmp_path / f"{split}-mask.png")
        (tmp_path / f"{split}.txt").write_text(f"{split}.png {split}-mask.png\n")
    values = small_net.values()
    values["data"] |= {"name": "camvid", "options": {}, "root": str(tmp_path)}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(values))
    assert run(["data", "check", str(tmp_path / "r.yaml")]) == 2
    assert "val-mask.png: 64 pixels have class id 12" in capsys.readouterr().err
    Image.new("L", (8, 8), 0).save(tmp_path / "val-mask.png")
    assert run(["data", "check", str(tmp_path / "r.yaml")]) == 0
    assert "all can be read" in capsys.readouterr().out
