"""`binarize.calibrate` and `binarize calibrate`: statistics against ones that are computed apart from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_net import values
from torch import Tensor, nn
from torch.nn import functional as F

import binarize
from binarize import cli, recipes
from binarize.calibration import calibrated
from binarize.errors import BinarizeWarning, ConfigError
from binarize.files import container
from binarize.training import saved
from binarize.training.build import dataset
from binarize.training.evaluation import evaluate
from binarize.training.loop import MODEL
from binarize.training.recalibrate import training_batches
from binarize.training.staged import train


def three_batches(channels: int = 3) -> list[Tensor]:
    torch.manual_seed(3)
    return [torch.randn(n, channels, 16, 16) * (1 + n / 8) + n / 4 for n in (4, 6, 3)]


class Two(nn.Module):
    """Two norms, the second behind the first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)
        self.drop = nn.Dropout(0.5)
        self.conv2, self.bn2 = nn.Conv2d(5, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(F.relu(self.bn1(self.conv1(x))))
        return self.bn2(self.conv2(x))


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def unchanged(model: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_statistics_are_those_of_all_inputs_together() -> None:
    model, batches = Two().train(), three_batches()
    before = state(model)
    with torch.no_grad():
        first = [model.conv1(x).double() for x in batches]
        normalized = [
            (y - y.mean((0, 2, 3), keepdim=True))
            / (y.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
            for y in first
        ]
        second = [model.conv2(y.relu().float()).double() for y in normalized]
    found, report = calibrated(model, iter(batches))
    for norm, inputs in ((found.bn1, first), (found.bn2, second)):
        pooled = torch.cat([y.transpose(0, 1).flatten(1) for y in inputs], dim=1)
        torch.testing.assert_close(norm.running_mean, pooled.mean(1).float(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm.running_var, pooled.var(1).float(), rtol=1e-4, atol=1e-5)
    assert (report.batches, report.inputs) == (3, 13)
    assert found.bn1.momentum == 0.1
    assert found.training
    assert unchanged(model, before)
    for name in ("conv1.weight", "bn1.weight", "bn1.num_batches_tracked"):
        assert torch.equal(found.state_dict()[name], before[name])


@pytest.mark.parametrize("method", ["bidense", "reactnet", "bisrnet", "adabin", "bit", "lqnet", "bnn"])
def test_of_a_conversion_thresholds_come_to_the_mean(method: str, small_net: nn.Module) -> None:
    batches = [x.abs() for x in three_batches()]
    net = binarize.apply(small_net, method)
    before = state(net)
    found, report = calibrated(net, batches)
    assert unchanged(net, before)
    _, without = calibrated(net, batches, thresholds="keep")
    assert not without.thresholds
    assert bool(report.thresholds) == (method in ("bidense", "reactnet", "bisrnet"))
    assert bool(report.started) == (method in ("bit", "lqnet"))
    layer = next(m for m in found.modules() if isinstance(m, binarize.layers.BinaryLayer))
    if method == "reactnet":
        with torch.no_grad():
            inputs = torch.cat([found.stem(x).transpose(0, 1).flatten(1) for x in batches], dim=1)
        torch.testing.assert_close(layer.quantizer.beta.flatten(), -inputs.mean(1), rtol=1e-4, atol=1e-5)
    again, second = calibrated(found, batches)  # what has moved stays
    assert not second.thresholds
    assert not second.started
    quantizer = {n: t for n, t in found.state_dict().items() if "quantizer" in n}
    assert all(torch.equal(again.state_dict()[n], t) for n, t in quantizer.items())


def test_a_calibrated_conversion_agrees_better(tmp_path: Path) -> None:
    plain = {**values(epochs=6), "method": None}
    train(recipes.validate(plain, "a test"), tmp_path)
    recipe, net = saved.load(tmp_path)
    batches = list(training_batches(recipe, dataset(recipe, "train", training=True), 6))
    data = dataset(recipe, "val")
    images = torch.stack([data[i].image for i in range(len(data))])
    for method in ("reactnet", "bnn"):
        fresh = binarize.apply(net, method, example_inputs=images[:1]).eval()
        ready = binarize.calibrate(fresh, batches)
        with torch.no_grad():
            expected = net(images).log_softmax(1)
            apart = [
                F.kl_div(model(images).log_softmax(1), expected, log_target=True, reduction="batchmean")
                for model in (fresh, ready)
            ]
        assert apart[1] < 0.8 * apart[0]


def test_dead_channels_are_warned_of() -> None:
    model = Two()
    with torch.no_grad():
        model.conv1.weight[1] = 0
    with pytest.warns(BinarizeWarning, match="1 channels are dead, the same for all 13 inputs, in bn1"):
        _, report = calibrated(model, three_batches())
    assert report.dead == ("bn1",)


def test_what_cannot_be_calibrated(small_net: nn.Module) -> None:
    with pytest.raises(ConfigError, match="no batches"):
        binarize.calibrate(Two(), [])
    with pytest.raises(ConfigError, match="a batch is a str"):
        binarize.calibrate(Two(), ["x"])
    with pytest.raises(ConfigError, match="a single value per channel"):
        binarize.calibrate(Two(), [torch.zeros(1, 3, 5, 5)])
    with pytest.raises(ConfigError, match="is deployed"):
        binarize.calibrate(binarize.deploy(binarize.apply(small_net, "bnn")), three_batches())
    with pytest.raises(ConfigError, match="expected 'fresh' or 'keep'"):
        binarize.calibrate(Two(), three_batches(), thresholds="all")  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:training.ema")
@pytest.mark.parametrize("more", [{}, {"ema": 0.9, "accumulate": 2}])
def test_at_the_end_of_a_training(more: dict[str, Any], tmp_path: Path) -> None:
    for name, number in (("with", 5), ("without", 0)):
        train(recipes.validate(values(epochs=2, calibrate=number, **more), "a test"), tmp_path / name)
    recipe, ready = saved.load(tmp_path / "with")
    _, plain = saved.load(tmp_path / "without")
    data = dataset(recipe, "train", training=True)
    expected = binarize.calibrate(plain, training_batches(recipe, data, 5), thresholds="keep")
    own = ready.state_dict()
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(own[name], tensor, rtol=1e-4, atol=1e-5)
    assert any(not torch.equal(own[name], t) for name, t in plain.state_dict().items())


def test_the_best_epoch_is_measured_again_too(tmp_path: Path) -> None:
    settings = {"epochs": 3, "calibrate": 4, "keep": "best"}
    train(recipes.validate(values(**settings), "a test"), tmp_path / "run")
    log = [json.loads(line)["val"]["miou"] for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    recipe, found = saved.load(tmp_path / "run")
    images = dataset(recipe, "val")
    measured = evaluate(found, images, batch=recipe.data.evaluation.batch)["miou"]
    assert measured == pytest.approx(max(log))
    data = dataset(recipe, "train", training=True)
    again = binarize.calibrate(found, training_batches(recipe, data, 4), thresholds="keep")
    for name, tensor in again.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)


def test_an_early_end_keeps_measured_statistics(tmp_path: Path) -> None:
    settings = {"epochs": 6, "calibrate": 4, "keep": "last", "patience": 1, "lr": 1e-9}
    train(recipes.validate(values(**settings), "a test"), tmp_path / "run")
    recipe, found = saved.load(tmp_path / "run")
    assert len((tmp_path / "run/log.jsonl").read_text().splitlines()) < 6
    data = dataset(recipe, "train", training=True)
    again = binarize.calibrate(found, training_batches(recipe, data, 4), thresholds="keep")
    for name, tensor in again.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)


def test_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = values(epochs=1)
    Path("r.yaml").write_text(yaml.safe_dump(given))
    train(recipes.validate(given, "a test"), Path("run"))
    assert cli.run(["calibrate", "run", "--batches", "3", "--out", "c.safetensors", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["batches"], told["inputs"]) == (3, 24)
    before, after = container.read(Path("run") / MODEL), container.read("c.safetensors")
    assert before.tensors.keys() == after.tensors.keys()
    changed = {n for n, t in before.tensors.items() if not torch.equal(t, after.tensors[n])}
    assert changed
    assert all(name.endswith(("running_mean", "running_var")) for name in changed)
    assert before.metadata["binarize.recipe"] == after.metadata["binarize.recipe"]
    assert cli.run(["evaluate", "c.safetensors"]) == 0
    capsys.readouterr()
    assert cli.run(["convert", "test_resnet", "--out", "m.safetensors"]) == 0
    assert cli.run(["calibrate", "m.safetensors"]) == 2
    assert "names no data: give --images" in capsys.readouterr().err
    Path("images").mkdir()
    from PIL import Image

    for number in range(5):
        noise = (torch.rand(40, 50, 3, generator=torch.Generator().manual_seed(number)) * 255).byte()
        Image.fromarray(noise.numpy()).save(f"images/{number}.png")
    options = ["--images", "images", "--batch", "2", "--input-size", "64", "--out", "n.safetensors"]
    assert cli.run(["calibrate", "m.safetensors", *options]) == 0
    out = capsys.readouterr().out
    assert "4 images in 2 parts" in out
    assert "thresholds at the mean" in out
    assert cli.run(["calibrate", "m.safetensors", "--data", "r.yaml", "--out", "o.safetensors"]) == 0
