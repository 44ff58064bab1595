"""Sizes that are promised before a packed file is written are those of the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import small_net
import torch
import yaml
from torch import nn

import binarize
from binarize.accounting import summary
from binarize.cli import run
from binarize.files import create_timm, deployed_size, find_source, save
from binarize.files.packed import packed_size
from binarize.layers import BinaryConv2d, BinaryConvTranspose2d


class Odd(nn.Module):
    """Tied weights, a layer of two names, one that cannot be packed, integer and transient buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = BinaryConv2d(5, 7, 3, padding=1, method="adabin")
        self.tied = BinaryConv2d(5, 7, 3, padding=1, method="adabin")
        self.tied.weight = self.first.weight
        self.up = BinaryConvTranspose2d(7, 5, 2, stride=2, method="bidense")
        self.again = self.up
        self.hooked = BinaryConv2d(5, 5, 1, method="bidense")
        self.hooked.quantizer.register_forward_hook(lambda *_: None)
        self.out = nn.Linear(5, 3)
        self.narrow = nn.Parameter(torch.zeros(3, dtype=torch.float16))
        self.register_buffer("table", torch.arange(9))
        self.register_buffer("cache", torch.zeros(99), persistent=False)


@pytest.mark.parametrize(
    ("name", "method", "options"),
    [
        pytest.param("test_resnet", "bidense", {}, marks=pytest.mark.slow),
        ("test_resnet", "adabin", {}),
        pytest.param(
            "test_convnext", "bidense", {"form": "table", "granularity": "layer"}, marks=pytest.mark.slow
        ),
        pytest.param("test_vit", "bisrnet", {}, marks=pytest.mark.slow),
    ],
)
def test_a_file_has_the_size_that_was_promised(
    tmp_path: Path, name: str, method: str, options: dict[str, Any]
):
    model = binarize.apply(create_timm(name), method, **options)
    latent = save(model, tmp_path / "latent.safetensors")
    promised = deployed_size(latent, model)
    packed = save(model, tmp_path / "packed.safetensors", packed=True)
    assert promised == packed.stat().st_size == deployed_size(packed, binarize.load(packed))


@pytest.mark.filterwarnings("ignore:Odd has parameters of float16")
@pytest.mark.parametrize("float_dtype", ["float32", "bfloat16"])
def test_networks_written_by_hand(tmp_path: Path, float_dtype: str):
    model = Odd()
    size = packed_size(model, source=find_source(model), entries={"é": "x"}, float_dtype=float_dtype)
    file = save(model, tmp_path / "x.safetensors", packed=True, float_dtype=float_dtype, entries={"é": "x"})
    assert size == file.stat().st_size


@pytest.mark.slow
def test_counts_of_layers_are_those_of_the_file(tmp_path: Path):
    model = binarize.apply(create_timm("test_resnet"), "bidense")
    before, after = summary(model, 64), summary(binarize.deploy(model), 64)
    assert [(a.name, a.packed_bytes) for a in before.layers] == [
        (b.name, b.packed_bytes) for b in after.layers
    ]
    file = save(model, tmp_path / "x.safetensors", packed=True)
    header = 8 + int.from_bytes(file.read_bytes()[:8], "little")
    counted = before.of_file(file.stat().st_size)
    assert (counted.header_bytes, counted.packed_bytes) == (header, file.stat().st_size)
    assert f"packed file {file.stat().st_size:,} bytes (header {header:,})" in str(counted)
    assert "(without a file's header)" in str(before)


def test_a_float_network_has_no_packed_size(tmp_path: Path):
    model = create_timm("test_resnet")
    assert deployed_size(save(model, tmp_path / "float.safetensors"), model) is None


@pytest.mark.parametrize("settings", [pytest.param([], marks=pytest.mark.slow), ["--method", "bnn"]])
def test_convert_promises_what_deploy_writes(
    tmp_path: Path, settings: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    command = ["convert", "test_resnet", "--out", "a.safetensors", "--force", *settings]
    assert run([*command, "--json"]) == 0
    promised = json.loads(capsys.readouterr().out)["summary"]["packed_bytes"]
    assert run(["deploy", "a.safetensors"]) == 0
    assert promised == Path("a-packed.safetensors").stat().st_size
    capsys.readouterr()
    assert run(command) == 0
    assert f"{promised:,} bytes" in capsys.readouterr().out
    for file in ("a.safetensors", "a-packed.safetensors"):
        assert run(["summary", file, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["summary"]["packed_bytes"] == promised


def test_compare_promises_what_deploy_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    recipe = tmp_path / "small.yaml"
    recipe.write_text(yaml.safe_dump(small_net.values(epochs=1)))
    runs = []
    for name, settings in (("bidense", []), ("float", ["--set", "method=null"])):
        runs.append(tmp_path / name)
        assert run(["train", str(recipe), "--out", str(runs[-1]), *settings]) == 0
    capsys.readouterr()
    assert run(["compare", *map(str, runs), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    sizes = {row["label"]: {cost["packed_bytes"] for cost in row["costs"].values()} for row in rows}
    out = tmp_path / "packed.safetensors"
    assert run(["deploy", str(runs[0]), "--out", str(out)]) == 0
    assert sizes["bidense"] == {out.stat().st_size}
    assert sizes["float"] == {(runs[1] / "model.safetensors").stat().st_size}
