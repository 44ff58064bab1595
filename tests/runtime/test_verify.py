"""Packed networks against the trained ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import small_net
import torch
import yaml

import binarize
from binarize.cli import run
from binarize.errors import ConfigError
from binarize.files import create_timm
from binarize.runtime import deployed_layers
from binarize.runtime.verify import verify


def test_a_good_and_a_broken_network() -> None:
    model = binarize.apply(create_timm("test_resnet", num_classes=7), "bidense").eval()
    packed = binarize.deploy(model)
    x = [torch.rand(2, 3, 64, 64) for _ in range(2)]
    good = verify(model, packed, x)
    assert {e.name for e in good.layers} == set(deployed_layers(packed))
    assert max(e.worst for e in good.layers) < 1e-5
    assert good.agreement == 1.0
    name, layer = next(iter(deployed_layers(packed).items()))
    layer.vector("scale").mul_(1.5)
    layer._load_from_state_dict({}, "", {}, False, [], [], [])  # the kernels' copies are made anew
    layer._kernels = False
    bad = verify(model, packed, x)
    assert {e.name for e in bad.layers if e.worst > 1e-3} == {name}


def test_networks_that_do_not_belong_together() -> None:
    model = binarize.apply(create_timm("test_resnet"), "bidense")
    with pytest.raises(ConfigError, match="no layer of the packed network"):
        verify(create_timm("test_resnet"), binarize.deploy(model), [])
    with pytest.raises(ConfigError, match="no inputs"):
        verify(model, binarize.deploy(model), [])


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(small_net.values(epochs=1)))
    assert run(["train", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert run(["verify", str(tmp_path / "run"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["figures"]["trained"] == pytest.approx(found["figures"]["packed"], abs=1e-3)
    assert found["inputs"] == 8
    assert run(["export", str(tmp_path / "run"), "--packed", "--out", str(tmp_path / "p.safetensors")]) == 0
    capsys.readouterr()
    assert run(["verify", str(tmp_path / "run"), "--packed", str(tmp_path / "p.safetensors")]) == 0
    assert "miou" in capsys.readouterr().out
    assert run(["verify", str(tmp_path / "p.safetensors")]) == 2
    assert "p.safetensors is packed: its latent weights are gone" in capsys.readouterr().err
