"""export, and what the other commands do with a packed file."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path

import pytest
import small_net
import torch
import yaml
from PIL import Image

import binarize
from binarize.cli import run
from binarize.files import container, create_timm
from binarize.runtime import PackedLayer
from binarize.training import saved

NET = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 1))
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@functools.cache
def _file() -> bytes:
    model = binarize.apply(create_timm("test_resnet", num_classes=3), "bidense")
    with tempfile.TemporaryDirectory() as folder:
        return binarize.save(model, Path(folder) / "m.safetensors").read_bytes()


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    path = tmp_path / "m.safetensors"
    path.write_bytes(_file())
    return path


def test_export(converted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["export", "m.safetensors", "--packed"]) == 0
    printed = capsys.readouterr().out
    assert "layer1.0.conv1" in printed
    assert "float (1)" in printed
    assert "(1) stem" in printed
    assert all(len(line) <= 80 for line in printed.splitlines() if str(tmp_path) not in line)
    packed = tmp_path / "m-packed.safetensors"
    assert packed.stat().st_size < converted.stat().st_size / 8
    model = binarize.load(packed)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(x), binarize.deploy(binarize.load(converted))(x))
    before = packed.read_bytes()
    assert run(["export", "m.safetensors", "--packed"]) == 2
    assert "exists already; replace it with --force" in capsys.readouterr().err
    assert packed.read_bytes() == before
    command = ["export", "m.safetensors", "--packed", "--force", "--leftovers", "bfloat16", "--json"]
    assert run(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bytes"] == packed.stat().st_size < len(before)
    assert found["leftovers"] == "bfloat16"
    assert any(layer["packed"] for layer in found["report"]["layers"])
    assert run(["summary", "m-packed.safetensors", "--input-size", "64", "--json"]) == 0
    counted = json.loads(capsys.readouterr().out)["summary"]
    assert run(["summary", "m.safetensors", "--input-size", "64", "--json"]) == 0
    latent = json.loads(capsys.readouterr().out)["summary"]
    for name in ("binary_params", "float_params", "binary_macs", "float_macs"):
        assert counted[name] == latent[name] > 0
    assert counted["packed_bytes"] == packed.stat().st_size
    assert latent["packed_bytes"] == len(before)
    assert run(["summary", "m-packed.safetensors", "--convention", "paper"]) == 2
    assert "count the converted model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["m.safetensors"], "choose what to write: --packed"),
        (["m.safetensors", "--packed", "--out", "m.safetensors", "--force"], "choose another name"),
        (["m.safetensors", "--packed", "--out", "x.bin"], "ends in .safetensors"),
        (["m.safetensors", "--packed", "--leftovers", "float8"], "float8"),
        (["missing.safetensors", "--packed"], "there is no such file"),
        (["zoo:camvid-bnn", "--packed"], "is a packed file already"),
        (["float.safetensors", "--packed"], "holds a float model"),
        (["custom.safetensors", "--packed"], "--model"),
    ],
)
def test_bad_input(
    converted: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    if "float." in arguments[0]:
        binarize.save(create_timm("test_resnet"), tmp_path / "float.safetensors")
    if "custom" in arguments[0]:
        net = binarize.apply(torch.nn.Sequential(*[torch.nn.Conv2d(3, 3, 3) for _ in range(3)]), "bnn")
        binarize.save(net, tmp_path / "custom.safetensors")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert run(["export", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_custom_classes_and_packed_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "nets.py").write_text(NET)
    assert run(["convert", "nets.py:net", "--out", "c.safetensors", "--input-size", "16"]) == 0
    assert run(["export", "c.safetensors", "--packed", "--model", "nets.py:net"]) == 0
    assert run(["summary", "c-packed.safetensors", "--model", "nets.py:net", "--input-size", "16"]) == 0
    capsys.readouterr()
    assert run(["export", "c-packed.safetensors", "--packed"]) == 2
    assert "packed file already" in capsys.readouterr().err
    assert (
        run(["convert", "nets.py:net", "--checkpoint", "c-packed.safetensors", "--out", "d.safetensors"]) == 2
    )
    assert "latent weights are gone" in capsys.readouterr().err


def test_of_a_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    values = small_net.values(epochs=1)
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(values))
    assert run(["train", "r.yaml", "--out", "run"]) == 0
    assert run(["export", "run", "--packed", "--out", "small.safetensors"]) == 0
    latent, packed = (container.read_metadata(p) for p in ("run/model.safetensors", "small.safetensors"))
    assert {k: v for k, v in latent.items() if k != "binarize"} == {
        k: v for k, v in packed.items() if k != "binarize"
    }
    capsys.readouterr()
    figures = []
    for file in ("run", "small.safetensors"):
        assert run(["evaluate", file, "--json"]) == 0
        figures.append(json.loads(capsys.readouterr().out))
    assert figures[0]["pixel_accuracy"] == pytest.approx(figures[1]["pixel_accuracy"], abs=0.01)
    Image.new("RGB", (50, 30), "red").save(tmp_path / "a.jpg")
    assert run(["predict", "small.safetensors", "a.jpg"]) == 0
    assert (tmp_path / "predictions/a.png").exists()
    start = ["--set", "training.start_from=small.safetensors"]
    capsys.readouterr()
    assert run(["train", "r.yaml", "--out", "again", *start]) == 2
    error = capsys.readouterr().err
    assert error.count("latent weights are gone") == 1
    _, network = saved.load(tmp_path / "small.safetensors")
    assert sum(isinstance(module, PackedLayer) for module in network.modules()) == 2


def test_deploy_is_export_packed(converted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["export", "m.safetensors", "--packed", "--out", "a.safetensors"]) == 0
    one = capsys.readouterr().out
    assert run(["deploy", "m.safetensors", "--out", "b.safetensors"]) == 0
    assert capsys.readouterr().out == one.replace("a.safetensors", "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert run(["deploy", "b.safetensors"]) == 2
    assert "is a packed file already" in capsys.readouterr().err


def test_verify_of_a_file_without_a_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    layer = ["--set", "granularity=layer", "--input-size", "32"]
    assert run(["convert", "test_resnet", "--out", "m.safetensors", *layer]) == 0
    capsys.readouterr()
    Image.new("RGB", (90, 70), (200, 30, 90)).save("image.png")
    assert run(["verify", "m.safetensors", "image.png", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["figures"] == {}
    assert 0 <= max(layer["worst"] for layer in found["layers"]) < 1e-5
    assert run(["deploy", "m.safetensors"]) == 0
    assert run(["verify", "m.safetensors", "image.png", "--packed", "m-packed.safetensors"]) == 0
    capsys.readouterr()
    for arguments, message in (
        (["m.safetensors"], "names no data set: give IMAGES"),
        (["m.safetensors", "image.png", "--split", "val"], "--data and --split cannot be used"),
        (["m-packed.safetensors", "image.png"], "latent weights are gone"),
        (["missing.safetensors", "image.png"], "no such file"),
    ):
        assert run(["verify", *arguments]) == 2
        assert message in capsys.readouterr().err
    grey = torch.nn.Sequential(*[torch.nn.Conv2d(1, 1, 3) for _ in range(3)])
    binarize.save(binarize.apply(grey, "bnn", example_inputs=torch.rand(1, 1, 9, 9)), "g.safetensors")
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n\ndef net():\n"
        "    return nn.Sequential(*[nn.Conv2d(1, 1, 3) for _ in range(3)])\n"
    )
    assert run(["verify", "g.safetensors", "image.png", "--model", "nets.py:net"]) == 2
    assert "three channels" in capsys.readouterr().err


def test_bench_of_files_and_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    flat = "\ndef flat():\n    return nn.Sequential(*[nn.Linear(8, 8) for _ in range(4)])\n"
    (tmp_path / "nets.py").write_text(NET + flat)
    assert run(["convert", "nets.py:net", "--out", "c.safetensors", "--input-size", "16"]) == 0
    quick = ["--rounds", "1", "--against", "eager", "--json"]
    threads = torch.get_num_threads()
    capsys.readouterr()
    assert run(["bench", "c.safetensors", "--model", "nets.py:net", *quick]) == 0
    assert json.loads(capsys.readouterr().out)["shape"] == [1, 3, 16, 16]
    model = binarize.apply(create_timm("test_resnet", num_classes=3), "bnn")
    (tmp_path / "run").mkdir()
    binarize.save(model, tmp_path / "run" / "model.safetensors")
    assert run(["bench", "run", "--size", "32", *quick]) == 0
    assert run(["summary", "run", "--input-size", "32"]) == 0
    for arguments, message in (
        (["c.safetensors"], "give its float form, --model"),
        (["test_resnet", "--model", "nets.py:net"], "is for a file"),
        (["nets.py:flat"], "is for networks that take images"),
    ):
        assert run(["bench", *arguments, *quick]) == 2
        assert message in capsys.readouterr().err
    assert torch.get_num_threads() == threads


@pytest.mark.slow
def test_a_network_that_cannot_be_exported_names_the_cause(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("onnxscript")
    (tmp_path / "branch.py").write_text(
        """
from torch import nn

class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.body(self.stem(x))
        return self.head(x if x.mean() > 0 else -x)
"""
    )
    assert run(["convert", "branch.py:Branch", "--input-size", "16", "-o", "b.safetensors"]) == 0
    capsys.readouterr()
    assert run(["export", "b.safetensors", "--model", "branch.py:Branch", "--onnx", "b.onnx"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "The cause: GuardOnDataDependentSymNode: " in said
    assert not (tmp_path / "b.onnx").exists()
