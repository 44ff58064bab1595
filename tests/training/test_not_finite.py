"""Networks whose weights are not numbers any more: every command says so, and none ends in a traceback."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import small_net
import torch
import yaml
from torch import nn

import binarize
from binarize import files
from binarize.cli import run
from binarize.data import Labels
from binarize.errors import BinarizeWarning
from binarize.files import container
from binarize.model_info import first_nan
from binarize.training import evaluate, saved


def spoilt(network: nn.Module) -> nn.Module:
    with torch.no_grad():
        dict(network.named_parameters())["0.weight"][0] = float("nan")
    return network


def small() -> nn.Module:
    body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1))
    return binarize.apply(body, "reactnet", example_inputs=torch.rand(1, 3, 8, 8)).eval()


def test_the_first_tensor_with_nan_is_named() -> None:
    assert first_nan(small()) == ""
    assert first_nan(spoilt(small())) == "0.weight"


def test_predictions_of_nan_are_told() -> None:
    data = [(torch.rand(3, 8, 8), torch.zeros(8, 8, dtype=torch.long)) for _ in range(2)]
    truth = Labels(names=("a", "b"))
    message = "output holds NaN, its predictions and figures mean nothing. So does its 0.weight"
    with pytest.warns(BinarizeWarning, match=message):
        evaluate(spoilt(small()), data, truth=truth)
    with pytest.warns(BinarizeWarning, match="Its weights do not: do the images"):
        evaluate(small(), [(image * float("nan"), target) for image, target in data], truth=truth)
    with pytest.warns(BinarizeWarning, match="0.weight holds NaN"):
        binarize.deploy(spoilt(small()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(small(), data, truth=truth)
        binarize.deploy(small())


def test_inspect_says_why_it_finds_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(yaml.safe_dump(small_net.values(epochs=1)))
    assert run(["train", str(recipe), "--out", str(tmp_path / "run")]) == 0
    file = tmp_path / "run" / "model.safetensors"
    network = saved.load(file)[1]
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    entries = {n: text for n, text in container.read_metadata(file).items() if n != files.ENTRY}
    files.save(network, tmp_path / "nan.safetensors", source=files.read_header(file).source, entries=entries)
    capsys.readouterr()
    command = ["inspect", str(tmp_path / "nan.safetensors"), "--out", str(tmp_path / "look"), "--images", "2"]
    assert run(command) == 2
    assert "holds NaN" in capsys.readouterr().err
