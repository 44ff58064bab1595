"""The recipes of Table 2's FCN-32s: what they hold, and from training to the packed network on VOC images."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from binarize import recipes
from binarize.cli import run
from binarize.data.dataset import Labels
from binarize.layers import BinaryLayer
from binarize.training.build import network

SAMPLES = Path(os.environ.get("BINARIZE_DATA", "")) / "layout_samples" / "VOC"
METHODS = ("float", "bnn", "reactnet", "adabin", "bisrnet", "bidense", "lqnet", "groupnet", "cbnn")
SMALL = (
    "data.augmentation.size=[64,96]",
    "data.augmentation.long_side=96",
    "data.evaluation.resize=[64,96]",
    "data.workers=0",
    "training.batch=2",
    "training.epochs=2",
    "training.evaluate_every=2",
)


def all_commands(recipe: str, folder: Path, data: Path) -> None:
    """train, evaluate, predict, and for a binary network deploy and verify."""
    root = ["--data", str(data)]
    changed = [part for setting in SMALL for part in ("--set", setting)]
    out = folder / "run"
    assert run(["train", recipe, "--out", str(out), *root, *changed]) == 0
    steps = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert all(step["loss"] > 0 for step in steps if "loss" in step)
    assert run(["evaluate", str(out), *root, "--json"]) == 0
    image = next(data.rglob("*.jpg"))
    assert run(["predict", str(out), str(image), "--out", str(folder / "masks")]) == 0
    assert (folder / "masks" / f"{image.stem}.png").is_file()
    if not recipe.endswith("-float"):
        assert run(["deploy", str(out / "model.safetensors")]) == 0
        assert (out / "model-packed.safetensors").is_file()
        # rounded scales, the default, turn signs of a network that has seen four steps
        exact = ["--exact-scales", "--count", "1", "--json"]
        assert run(["verify", str(out / "model.safetensors"), *root, *exact]) == 0


def test_there_is_a_recipe_for_each_network_of_the_table() -> None:
    for depth in (18, 34, 50):
        for method in METHODS:
            recipe = recipes.load(f"voc2012/fcn32s-resnet{depth}-{method}")
            assert (recipe.network.name, recipe.network.encoder) == ("fcn32s", f"resnet{depth}")
            assert (recipe.method.name if recipe.method else "float") == method
            if recipe.method is not None and method == "groupnet":
                assert recipe.method.options == {"dilated": True}
            assert (recipe.data.train, recipe.data.test) == ("trainaug", "val")
            assert (recipe.training.epochs, recipe.training.batch, recipe.training.lr) == (200, 32, 1e-4)


@pytest.mark.parametrize("method", ["float", "reactnet", "groupnet"])
def test_networks_of_the_table_are_built_and_learn(method: str) -> None:
    settings = ["network.encoder=test_resnet", "data.workers=0"]
    recipe = recipes.load(f"voc2012/fcn32s-resnet18-{method}", settings)
    net: Any = network(recipe, Labels(names=tuple(map(str, range(21)))))
    y = net.train()(torch.randn(2, 3, 45, 64))
    assert y.shape == (2, 21, 45, 64)
    y.logsumexp(1).mean().backward()
    grads = [p.grad for p in net.head.conv.parameters() if p.dim() == 4]
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads)
    assert any(isinstance(m, BinaryLayer) for m in net.head.conv.modules()) == (method != "float")
    assert not isinstance(net.head.classifier, BinaryLayer)
    assert (net.binarize_spec["name"], net.binarize_spec["kwargs"]["num_classes"]) == ("fcn32s", 21)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif(not SAMPLES.is_dir(), reason="BINARIZE_DATA names no folder with layout samples")
@pytest.mark.parametrize("method", METHODS)
def test_table_2_on_images_of_voc(method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    all_commands(f"voc2012/fcn32s-resnet18-{method}", tmp_path, SAMPLES)
    if method != "float":
        found = capsys.readouterr().out
        figures = json.loads(found[found.rindex('{\n  "file"') :])["figures"]
        assert figures["packed"]["miou"] == pytest.approx(figures["trained"]["miou"], abs=0.01)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif(not SAMPLES.is_dir(), reason="BINARIZE_DATA names no folder with layout samples")
def test_resnet50_of_table_2_on_images_of_voc(tmp_path: Path) -> None:
    all_commands("voc2012/fcn32s-resnet50-reactnet", tmp_path, SAMPLES)
