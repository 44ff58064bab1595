"""Packed networks against the trained ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import small_net
import torch
import yaml
from torch import Tensor, nn

import binarize
from binarize.cli import run
from binarize.errors import ConfigError
from binarize.files import create_timm
from binarize.native.library import available
from binarize.runtime import deployed_layers
from binarize.runtime.verify import LayerError, Verification, verify


def test_a_good_and_a_broken_network() -> None:
    model = binarize.apply(create_timm("test_resnet", num_classes=7), "bidense", granularity="layer").eval()
    packed = binarize.deploy(model)
    x = [torch.rand(2, 3, 64, 64) for _ in range(2)]
    good = verify(model, packed, x)
    assert {e.name for e in good.layers} == set(deployed_layers(packed))
    assert max(e.worst for e in good.layers) < 1e-5
    assert good.agreement == 1.0
    if available():
        assert len(good.steps) > len(good.layers)
        assert max(e.beyond for e in good.steps) < 0.01
        assert f"program of {len(good.steps)} operators" in str(good)
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


class Several(nn.Module):
    """Two outputs in one of the forms that networks return."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.head, self.aux = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Any:
        x = self.body(self.stem(x))
        out, aux = self.head(x), self.aux(x)
        return {
            "dict": {"out": out, "aux": aux},
            "tuple": (out, aux),
            "nested": {"out": [out, {"aux": aux}], "size": 3},
        }[self.form]


@pytest.mark.parametrize(
    ("form", "names"),
    [("dict", ("out", "aux")), ("tuple", ("0", "1")), ("nested", ("out.0", "out.1.aux"))],
)
def test_every_output_is_compared(form: str, names: tuple[str, str]) -> None:
    torch.manual_seed(0)
    model = binarize.apply(Several(form), "bnn", example_inputs=torch.rand(1, 3, 8, 8)).eval()
    packed = binarize.deploy(model)
    x = [torch.rand(1, 3, 8, 8)]
    good = verify(model, packed, x)
    assert tuple(e.name for e in good.outputs) == names
    assert [e.agreement for e in good.outputs] == [1.0, None]
    assert good.difference == max(e.difference for e in good.outputs) < 1e-5
    packed.aux.weight.data.mul_(3.0)  # type: ignore[union-attr, operator]
    bad = verify(model, packed, x)
    assert bad.outputs[0].difference < 1e-5
    assert bad.outputs[1].difference == bad.difference > 0.1
    assert f"{names[1]}: " in str(bad)
    assert [e["name"] for e in bad.as_dict()["outputs"]] == list(names)


def test_results_of_other_forms_are_refused() -> None:
    x = torch.rand(1, 3, 8, 8)
    model = binarize.apply(Several("dict"), "bnn", example_inputs=x).eval()
    packed = binarize.deploy(model)
    packed.form = "tuple"  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="the packed network returns 0, 1, the trained one out, aux"):
        verify(model, packed, [x])


@pytest.mark.parametrize(
    ("median", "difference", "said"),
    [(2e-6, 0.38, True), (2e-6, float("inf"), True), (2e-6, 1e-5, False), (1e-2, 0.38, False)],
)
def test_networks_that_differ_although_their_layers_agree(
    median: float, difference: float, said: bool
) -> None:
    result = Verification((LayerError("a", median=median, inputs=1),), None, difference, 1)
    assert ("inputs lie on thresholds" in " ".join(str(result).split())) is said
    assert bool(result.as_dict()["remark"]) is said


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", "nofile.safetensors", "i0.png"]) == 2
    of_verify = capsys.readouterr().err
    assert run(["summary", "nofile.safetensors"]) == 2
    assert of_verify == capsys.readouterr().err
    assert "train" not in of_verify
