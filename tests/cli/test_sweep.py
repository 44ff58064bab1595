"""compare --sweep: equal budgets, the best on val, a paired test."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_net
import yaml
from scipy import stats

from binarize import cli
from binarize.cli.recipe_set import seeds_of, warn_of_seeds
from binarize.comparison import paired, sweep
from binarize.errors import BinarizeWarning, ConfigError


@pytest.fixture
def recipe_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "recipes/mine"
    folder.mkdir(parents=True)
    for method in ("bidense", "bnn"):
        values = {**small_net.values(epochs=1), "method": {"name": method}}
        (folder / f"small-{method}.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.setattr("binarize.recipes.library.folder", lambda: tmp_path / "recipes")
    return tmp_path


def test_a_sweep(recipe_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compare", "--recipe-set", "mine", "--sweep", "training.lr=1e-3,3e-2", "--seeds", "2"]
    command += ["--runs", str(recipe_set / "runs"), "--set", "data.options.length=8"]
    assert cli.run([*command, "--out", str(recipe_set / "table"), "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert len(list((recipe_set / "runs/mine").iterdir())) == 8
    for row, recipe in zip(table["rows"], ("small-bidense", "small-bnn"), strict=True):
        tried = [t for t in table["sweep"] if t["recipe"] == f"mine/{recipe}"]
        means = {}
        for t in tried:
            figures = []
            for seed in (0, 1):
                name = f"{recipe}-{t['values'][0].replace('training.', '')}-seed{seed}"
                lines = (recipe_set / "runs/mine" / name / "log.jsonl").read_text().splitlines()
                figures.append(json.loads(lines[-1])["val"]["miou"])
            assert t["figures"] == figures
            means[t["values"][0]] = np.mean(figures)
        best = max(means, key=lambda value: means[value])
        assert [t["values"][0] for t in tried if t["chosen"]] == [best]
        assert row["lr"] == float(best.partition("=")[2])
        assert row["seeds"] == [0, 1]
    (test,) = table["tests"]
    a, b = (next(r for r in table["rows"] if r["label"] == test[k])["figures"]["miou"] for k in "ab")
    assert a["mean"] >= b["mean"]
    assert test["p"] == pytest.approx(stats.ttest_rel(a["values"], b["values"]).pvalue)
    text = (recipe_set / "table.md").read_text()
    assert "Paired t-test over the seeds" in text
    assert text.count("| chosen |") == 2
    assert cli.run([*command, "--json"]) == 0  # nothing is trained again
    captured = capsys.readouterr()
    assert "epoch 1/1" not in captured.err
    assert json.loads(captured.out) == table
    assert cli.run(command) == 0
    assert "against" in capsys.readouterr().out


@pytest.mark.slow
def test_jobs_in_processes_of_their_own(recipe_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recipe_set / "recipes/mine"
    for file in path.iterdir():  # another process does not know the network of this file's recipes
        values = yaml.safe_load(file.read_text())
        values["network"] = {"encoder": "test_convnext", "options": {"width": 8}}
        file.write_text(yaml.safe_dump(values))
    command = ["compare", "--recipe-set", "mine", "--jobs", "2", "--runs", str(recipe_set / "runs")]
    assert cli.run([*command, "--sweep", "training.lr=1e-3", "--json"]) == 0
    captured = capsys.readouterr()
    assert "2 runs, 2 at a time" in captured.err
    table = json.loads(captured.out)
    assert [len(row["seeds"]) for row in table["rows"]] == [1, 1]
    assert table["tests"][0]["p"] is None
    assert cli.run([*command, "--set", "data.name=nothing"]) == 2
    assert "nothing" in capsys.readouterr().err
    assert cli.run([*command, "--set", "training.start_from=nothing.pth", "--seeds", "7,"]) == 2
    error = capsys.readouterr().err
    assert "its training ended with status 2" in error
    assert "nothing.pth" in error


def test_combinations() -> None:
    found = sweep.combinations(["training.lr=1e-3,3e-3", "data.augmentation.size=[32, 32],[64, 64]"])
    assert len(found) == 4
    assert found[1] == ("training.lr=1e-3", "data.augmentation.size=[64, 64]")
    assert sweep.combinations([]) == [()]
    for wrong in ("training.lr", "training.lr=1,1", "training.lr=", "training.seed=1,2"):
        with pytest.raises(ConfigError, match="--sweep"):
            sweep.combinations([wrong])
    assert seeds_of("3") == (0, 1, 2)
    assert seeds_of("1") == seeds_of("0") == (0,)
    assert seeds_of("0,3") == (0, 3)
    assert seeds_of("3,") == (3,)
    for wrong in ("", ",", "3,,", "-1", "1,1", "x"):
        with pytest.raises(ConfigError, match="expected how many"):
            seeds_of(wrong)


def test_one_number_of_seeds_means_the_same_with_and_without_a_sweep() -> None:
    with pytest.warns(BinarizeWarning, match=r"0, 1, 2. Without it, .* seed 3 alone, which is now .* 3,$"):
        warn_of_seeds("3")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for text in ("0", "3,", "0,3"):
            warn_of_seeds(text)


def rows(**values: list[float]) -> list[dict[str, Any]]:
    return [
        {"label": n, "seeds": list(range(len(v))), "figures": {"miou": {"mean": np.mean(v), "values": v}}}
        for n, v in values.items()
    ]


def test_the_paired_test() -> None:
    a, b, c = [0.50, 0.52, 0.57, 0.49], [0.47, 0.50, 0.52, 0.47], [0.4, 0.42, 0.47, 0.39]
    first, second = paired.paired_tests(rows(b=b, a=a, c=c))
    d = np.subtract(a, b)
    t = d.mean() / (d.std(ddof=1) / 2)
    assert (first["a"], first["b"]) == ("a", "b")
    assert first["difference"] == pytest.approx(d.mean())
    assert first["p"] == pytest.approx(2 * stats.t.sf(abs(t), 3))
    assert second["p"] is None
    assert second["why"] == "the same difference with all seeds"
    (one,) = paired.paired_tests(rows(a=[0.5], b=[0.4]))
    assert paired.p_text(one) == "n/a"
    assert paired.paired_tests(rows(a=[0.5])) == []
