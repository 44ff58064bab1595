"""compare, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import small_net
import yaml

from binarize.cli import run


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(small_net.values(epochs=2)))
    return path


def test_compare(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = []
    for seed, method in ((0, "bidense"), (1, "bidense"), (0, "bnn")):
        out = tmp_path / f"{method}-{seed}"
        settings = [f"training.seed={seed}", f"method.name={method}", "training.epochs=1"]
        command = ["train", str(recipe), "--out", str(out)]
        assert run([*command, *(part for s in settings for part in ("--set", s))]) == 0
        runs.append(str(out))
    capsys.readouterr()
    assert run(["compare", *runs, "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert [(row["label"], row["seeds"]) for row in table["rows"]] == [("bidense", [0, 1]), ("bnn", [0])]
    singles = []
    for out in runs[:2]:
        assert run(["evaluate", out, "--json"]) == 0
        singles.append(json.loads(capsys.readouterr().out)["miou"])
    found = table["rows"][0]["figures"]["miou"]
    assert found["values"] == pytest.approx(singles)
    assert found["mean"] == pytest.approx(np.mean(singles))
    assert found["sd"] == pytest.approx(np.std(singles, ddof=1))
    assert table["differences"] == []
    assert run(["compare", *runs, "--out", str(tmp_path / "table")]) == 0  # from what is kept in the runs
    assert max(map(len, capsys.readouterr().out.splitlines()[1:4])) <= 80
    text = (tmp_path / "table.md").read_text()
    assert f"{100 * found['mean']:.2f} ± {100 * found['sd']:.2f}" in text
    assert json.loads((tmp_path / "table.json").read_text()) == table
    assert run(["compare", *runs, "--out", str(tmp_path / "table")]) == 2
    assert "replace it with --force" in " ".join(capsys.readouterr().err.split())
    assert run(["compare", *runs, "--out", str(tmp_path / "table"), "--force"]) == 0


def test_compare_names_what_is_not_equal(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, setting in (
        ("a", "training.epochs=1"),
        ("b", "training.epochs=2"),
        ("c", "data.options.task=depth"),
    ):
        command = ["train", str(recipe), "--out", str(tmp_path / name), "--set", setting]
        assert run([*command, "--set", "training.batch=24"]) == 0
    capsys.readouterr()
    assert run(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["differences"] == ["training.epochs (1, 2)"]
    assert run(["compare", str(tmp_path / "a"), str(tmp_path / "c")]) == 2
    assert "shapes test depth, shapes test segmentation" in capsys.readouterr().err


def test_compare_tells_rows_apart_and_breaks_no_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = small_net.values(epochs=1)
    values["data"]["options"]["task"] = "depth"
    values["method"] = {"name": "bidense", "options": {"granularity": "layer"}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(values))
    for name, setting in (("a", "training.lr=1e-3"), ("b", "training.lr=2e-3"), ("c", "method=null")):
        command = ["train", str(tmp_path / "r.yaml"), "--out", str(tmp_path / name), "--set", setting]
        assert run(command) == 0
    capsys.readouterr()
    runs = [str(tmp_path / name) for name in "abc"]
    assert run(["compare", *runs, "--json"]) == 0
    labels = [row["label"] for row in json.loads(capsys.readouterr().out)["rows"]]
    assert labels == [
        "bidense (granularity=layer, lr=0.001)",
        "bidense (granularity=layer, lr=0.002)",
        "float",
    ]
    assert run(["compare", *runs]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines()[1:-1])) <= 80
    words = out.split()
    assert words.count("bidense") == 2
    assert {"(granularity=layer,", "lr=0.001)", "lr=0.002)", "AbsRel"} <= set(words)
    assert "SILog ↓; a wider terminal" in out
    assert run(["evaluate", runs[2], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["flip"], found["scales"]) == (False, [1.0])
    assert run(["evaluate", runs[2]]) == 0
    assert "images; depths from 0.001 to 10 m." in capsys.readouterr().out


@pytest.mark.slow
def test_compare_trains_a_set_of_recipes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "recipes/mine"
    folder.mkdir(parents=True)
    for method in ("bidense", "bnn"):
        values = {**small_net.values(epochs=1), "method": {"name": method}}
        (folder / f"small-{method}.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.setattr("binarize.recipes.library.folder", lambda: tmp_path / "recipes")
    command = [
        "compare",
        "--recipe-set",
        "mine",
        "--seeds",
        "0,3",
        "--runs",
        str(tmp_path / "runs"),
        "--json",
    ]
    assert run(command) == 0
    captured = capsys.readouterr()
    table = json.loads(captured.out)
    assert [(row["label"], row["seeds"]) for row in table["rows"]] == [("bidense", [0, 3]), ("bnn", [0, 3])]
    assert "epoch 1/1" in captured.err
    assert run(command) == 0
    captured = capsys.readouterr()
    assert "epoch" not in captured.err.replace("epochs", "")  # nothing is trained again
    assert json.loads(captured.out) == table
