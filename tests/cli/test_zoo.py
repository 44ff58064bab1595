"""Entries of the zoo: made from runs, listed, loaded by name."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import binarize
from binarize import recipes, report
from binarize.cli import run
from binarize.comparison.runs import find_runs
from binarize.errors import ConfigError
from binarize.files import zoo
from binarize.training import saved
from binarize.training.folder import LOG


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    values = {
        "data": {
            "name": "shapes",
            "options": {"size": [32, 32], "length": 8},
            "augmentation": {"size": [32, 32]},
            "evaluation": {"batch": 8},
        },
        "network": {"encoder": "test_resnet", "options": {"width": 8}},
        "training": {"epochs": 1, "batch": 8, "lr": 1e-3},
    }
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.slow
def test_from_a_run_to_a_loaded_network(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("binarize.files.zoo.folder", lambda: tmp_path / "zoo")
    for name, settings in (("float", ()), ("bidense", ("--set", "method={name: bidense}"))):
        assert run(["train", str(recipe), "--out", str(tmp_path / name), *settings]) == 0
        command = ["zoo", "add", str(tmp_path / name), "--name", f"shapes-{name}"]
        assert run(command) == 0
    assert zoo.names() == ["shapes-bidense", "shapes-float"]
    capsys.readouterr()
    assert run(["zoo"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
    assert run(["zoo", "show", "shapes-bidense"]) == 0
    assert "best by position" in capsys.readouterr().out
    assert run(["zoo", "--json"]) == 0
    metrics = {m["name"]: m for m in json.loads(capsys.readouterr().out)}
    for name in zoo.names():
        assert {p.name for p in (tmp_path / "zoo" / name).iterdir()} == {
            zoo.MODEL,
            zoo.METRICS,
            zoo.CARD,
            LOG,
        }
        model = binarize.load(f"zoo:{name}")
        with torch.no_grad():
            assert model(torch.rand(1, 3, 40, 48)).dtype == torch.float32
        assert run(["evaluate", f"zoo:{name}", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["miou"] == metrics[name]["figures"]["miou"]
        size = (tmp_path / "zoo" / name / zoo.MODEL).stat().st_size
        assert len(report.read(Path(f"zoo:{name}")).history) == 1
        assert metrics[name]["bytes"] == size < (tmp_path / name[7:] / zoo.MODEL).stat().st_size
    assert find_runs(tmp_path / "zoo") == ([], [])  # their logs do not make them runs
    Image.new("RGB", (20, 10)).save(tmp_path / "x.png")
    assert (
        run(["predict", "zoo:shapes-bidense", str(tmp_path / "x.png"), "--out", str(tmp_path / "out")]) == 0
    )


def test_the_command_of_a_card_makes_the_run_again(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["data.options.number=4", "data.options.task=depth", "data.augmentation.scale=[0.8,1.2]"]
    command = ["train", str(recipe), "--out", str(tmp_path / "run")]
    assert run([*command, *(part for setting in settings for part in ("--set", setting))]) == 0
    command = ["zoo", "add", str(tmp_path / "run"), "--into", str(tmp_path / "zoo")]
    assert run([*command, "--recipe", "shapes/tiny-float", "--name", "x"]) == 0
    card = (tmp_path / "zoo/x" / zoo.CARD).read_text()
    line = next(text for text in card.splitlines() if text.startswith("- Command"))
    _, _, name, *parts = shlex.split(line.split("`")[1])
    assert parts[::2] == ["--set"] * (len(parts) // 2)
    again = recipes.load(name, parts[1::2]).model_dump(exclude={"about": True})
    assert again == saved.load(tmp_path / "run")[0].model_dump(exclude={"about": True})
    assert "images; depths from 0.001 to 10 m" in card
    capsys.readouterr()
    assert run([*command, "--recipe", "shapes/tiny-bidense"]) == 2
    assert "method.name is 'bidense' there, None in the run" in " ".join(capsys.readouterr().err.split())


def test_unknown_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="unknown network in the zoo"):
        binarize.load("zoo:nothing")
    assert run(["evaluate", "zoo:nothing"]) == 2
    assert "zoo" in capsys.readouterr().err
    assert run(["zoo", "add", str(tmp_path), "--into", str(tmp_path / "zoo")]) == 2
    assert not (tmp_path / "zoo").exists()


def test_every_entry_of_the_zoo_is_whole() -> None:
    for name in zoo.names():
        metrics = json.loads((zoo.entry(name) / zoo.METRICS).read_text())
        assert metrics["bytes"] == zoo.locate(f"zoo:{name}").stat().st_size
        main = "abs_rel" if "abs_rel" in metrics["figures"] else "miou"
        packed, before = metrics["figures"][main], metrics["figures_before_packing"][main]
        assert abs(packed - before) < 1e-3
        assert main in metrics["floors"]["by_position"]


@pytest.mark.slow
def test_every_entry_of_the_zoo_loads() -> None:
    for name in zoo.names():
        model = binarize.load(f"zoo:{name}")
        with torch.no_grad():
            assert bool(model(torch.rand(1, 3, 64, 96)).isfinite().all())
