"""ONNX files, run by onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import binarize
from binarize.cli import run
from binarize.errors import ConfigError
from binarize.files import create_timm
from binarize.runtime import to_onnx

pytestmark = pytest.mark.filterwarnings("ignore")  # of the exporter's own packages


@pytest.mark.parametrize(
    ("method", "options"),
    [
        pytest.param("bidense", {}, marks=pytest.mark.slow),
        pytest.param("bidense", {"granularity": "layer"}, marks=pytest.mark.slow),
        pytest.param("bidense", {"granularity": "group", "groups": 2}, marks=pytest.mark.slow),
        pytest.param("adabin", {}, marks=pytest.mark.slow),
        pytest.param("bisrnet", {}, marks=pytest.mark.slow),
        pytest.param("mbunet", {"masked": 1.0}, marks=pytest.mark.slow),
    ],
)
def test_onnxruntime_gives_the_same(method: str, options: dict[str, Any], tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    model = binarize.apply(create_timm("test_resnet", num_classes=7), method, **options)
    if method == "mbunet":  # fresh norms have no shift: sums of whole numbers often lie on the threshold, 0
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            nn.init.normal_(norm.bias, std=0.3)
    source = binarize.save(model, tmp_path / "m.safetensors")
    assert run(["export", str(source), "--onnx", str(tmp_path / "m.onnx"), "--size", "64x96"]) == 0
    session = runtime.InferenceSession(str(tmp_path / "m.onnx"))
    packed = binarize.deploy(model, exact_scales=True)
    for count in (1, 3):
        x = torch.rand(count, 3, 64, 96)
        (got,) = session.run(None, {"image": x.numpy()})
        with torch.no_grad():
            expected = packed(x).numpy()
        # a sum that lies on a threshold to the last digit turns a sign, and what follows moves by whole steps
        cosine = (got * expected).sum() / np.linalg.norm(got) / np.linalg.norm(expected)
        assert cosine > 0.97
        if method == "bidense":
            np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
        np.testing.assert_array_equal(got.argmax(1), expected.argmax(1))


def test_a_small_network() -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 4, 1)
    )
    packed = binarize.deploy(binarize.apply(net, example_inputs=torch.zeros(1, 3, 32, 32)), exact_scales=True)
    session = runtime.InferenceSession(to_onnx(packed, (32, 32)))
    x = torch.rand(3, 3, 32, 32)
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(got, packed(x).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_images_of_another_number_of_channels() -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = binarize.apply(create_timm("test_resnet", num_classes=7, in_chans=1), "reactnet").eval()
    session = runtime.InferenceSession(to_onnx(binarize.deploy(model), (32, 32)))
    assert session.get_inputs()[0].shape[1:] == [1, 32, 32]


def test_only_deployed_networks() -> None:
    pytest.importorskip("onnxscript")
    with pytest.raises(ConfigError, match="is not deployed"):
        to_onnx(create_timm("test_resnet"), (64, 64))


def test_images_that_are_too_small() -> None:
    pytest.importorskip("onnxscript")
    pooled = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.AvgPool2d(4), nn.Conv2d(8, 2, 1)
    )
    packed = binarize.deploy(binarize.apply(pooled, "bnn", example_inputs=torch.zeros(1, 3, 8, 8)))
    with pytest.raises(ConfigError, match=r"cannot take images of 2x3 \(height x width\): "):
        to_onnx(packed, (2, 3))


def test_bad_requests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(binarize.save(create_timm("test_resnet"), tmp_path / "m.safetensors"))
    for arguments, message in (
        ([], "--packed, or --onnx"),
        (["--packed", "--onnx", "x.onnx"], "--packed, or --onnx"),
        (["--onnx", str(tmp_path / "none/x.onnx")], "there is no directory"),
        (["--onnx", str(tmp_path / "x.onnx")], "no binary layer"),
    ):
        assert run(["export", source, *arguments]) == 2
        assert message in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.safetensors"]
