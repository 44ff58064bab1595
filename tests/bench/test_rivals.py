"""The programs that a packed network is compared with: they compute the float network, or say why not."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from binarize.bench import BASELINES, check_baselines, rivals, variants
from binarize.bench.agreement import TOLERANCES, check, difference
from binarize.bench.random_images import random_images
from binarize.bench.rivals import RIVALS, FloatNetwork, Program
from binarize.cli import run
from binarize.errors import ConfigError

INSTALLED = {name: rivals.why_not(name) for name in RIVALS}
X = random_images((1, 3, 32, 32), 0)


@pytest.fixture(autouse=True)
def _threads() -> object:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


class Dense(nn.Module):
    """Two outputs in a dict, not in the order of their names; the last norm of the block starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.last = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        nn.init.zeros_(self.last.weight)
        self.head, self.other = nn.Conv2d(8, 5, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.stem(x)
        y = y + self.last(self.b(self.norm(self.a(y)).relu()))
        return {"out": self.head(y), "aux": self.other(y)}


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.mix = nn.Conv2d(3, 16, 8, stride=8), nn.Linear(16, 48)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patches(x).flatten(2).transpose(1, 2)
        q, k, v = self.mix(self.norm(y)).chunk(3, -1)
        y = y + torch.softmax(q @ k.transpose(1, 2), -1) @ v
        return self.head(y.mean(1))


def test_norms_fit_the_data_and_the_given_network_is_left_alone() -> None:
    model = Dense().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    network = FloatNetwork(model, X)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    settled = network.model
    assert isinstance(settled, Dense)
    assert torch.equal(settled.last.weight, torch.ones(8))
    with torch.no_grad():
        maps = settled.a(settled.stem(torch.cat(network.images)))
    mean, variance = maps.mean((0, 2, 3)), maps.var((0, 2, 3), correction=0)
    assert torch.allclose(settled.norm.running_mean, mean, atol=1e-5)
    assert torch.allclose(settled.norm.running_var, variance.maximum(mean**2), rtol=1e-3)
    assert (variance < mean**2).any()  # otherwise this would not test the least variance
    assert not settled.norm._forward_pre_hooks
    assert not any(module.training for module in settled.modules())
    assert [tuple(t.shape) for t in network.outputs] == [(1, 5, 16, 16), (1, 2, 16, 16)]


def test_difference_and_tolerance() -> None:
    wanted = [torch.tensor([3.0, 4.0]), torch.tensor([1.0, float("inf")])]
    assert difference([t.clone() for t in wanted], wanted) == 0.0
    assert difference([torch.tensor([3.0, 4.5]), torch.tensor([1.0, 7.0])], wanted) == pytest.approx(0.1)
    assert difference([torch.zeros(2), torch.tensor([1.0, 7.0])], wanted) == 1.0
    assert difference([torch.tensor([math.nan, 4.0]), wanted[1]], wanted) == math.inf
    with pytest.raises(ConfigError, match="shapes"):
        difference(wanted[:1], wanted)
    for form, most in TOLERANCES.items():
        assert most < 1  # what an output of zeros differs by
        with pytest.raises(ConfigError, match="is not the float network's"):
            check([torch.zeros(4)], [torch.ones(4)], form)
    assert check([torch.full((4,), 0.5)], [torch.ones(4)], "int8") == 0.5
    with pytest.raises(ConfigError, match="float32 may have"):
        check([torch.full((4,), 0.5)], [torch.ones(4)], "float32")


@pytest.fixture(scope="module", params=[Dense, Attention], ids=["convolutions", "attention"])
def network(request: pytest.FixtureRequest) -> Iterator[FloatNetwork]:
    """One network for all rivals: it is exported once."""
    torch.manual_seed(0)
    made = FloatNetwork(request.param().eval(), X)
    yield made
    made.close()


@pytest.mark.parametrize("name", [n for n in RIVALS if n != "openvino-bf16"])
def test_rivals_compute_the_float_network(name: str, network: FloatNetwork) -> None:
    if INSTALLED[name]:
        pytest.skip(INSTALLED[name])
    torch.set_num_threads(1)
    program = rivals.program(name, network)
    program.run()
    first = program.outputs()
    found = difference(first, network.outputs)
    if name.endswith("-int8"):
        assert 1e-5 < found < 0.15  # rounded, but little in a network of four layers
    else:
        assert found < 1e-5
    program.run()
    assert all(torch.equal(a, b) for a, b in zip(first, program.outputs(), strict=True))
    assert network.has_attention is isinstance(network.model, Attention)


@pytest.mark.skipif(bool(INSTALLED["onnxruntime"]), reason=INSTALLED["onnxruntime"] or "installed")
def test_the_file_is_removed(network: FloatNetwork) -> None:
    folder = network.onnx.parent
    assert folder.is_dir()
    network.close()
    assert not folder.exists()


def test_bfloat16_needs_its_instructions() -> None:
    reason = INSTALLED["openvino-bf16"]
    if not reason:
        network = FloatNetwork(Dense().eval(), X)
        program = rivals.program("openvino-bf16", network)
        program.run()
        try:
            assert 1e-5 < difference(program.outputs(), network.outputs) < 0.1
        finally:
            network.close()
    else:
        assert "openvino" in reason or "no instructions for bfloat16" in reason


def test_nonsense_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = Program(lambda: None, lambda: [torch.zeros(1, 5, 16, 16), torch.zeros(1, 2, 16, 16)])
    monkeypatch.setattr(rivals, "why_not", lambda name: "")
    monkeypatch.setattr(rivals, "program", lambda name, network: zeros)
    with pytest.raises(ConfigError, match=r"openvino-int8 cannot be timed: its output is not the float"):
        variants(nn.Identity(), Dense(), X, ["openvino-int8"])
    failed: dict[str, str] = {}
    made = variants(nn.Identity(), Dense(), X, ["openvino-int8", "eager"], failed=failed)
    assert [variant.name for variant in made] == ["packed", "eager"]
    assert [variant.difference for variant in made] == [None, 0.0]
    assert "is not the float network's" in failed["openvino-int8"]


@pytest.mark.parametrize("name", RIVALS)
def test_missing_packages(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    with pytest.raises(ConfigError, match=r"pip install 'binarize\[bench\]'"):
        check_baselines([name])
    assert run(["bench", "test_resnet", "--against", name]) == 2
    error = capsys.readouterr().err
    assert f"no {name} here: it needs the packages onnx, onnxscript" in error
    assert "pip install 'binarize[bench]'" in error


def test_names_are_told_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--help"]) == 0
    text = re.sub(r"\s", "", capsys.readouterr().out)  # names are broken at dashes
    for name in BASELINES:
        assert name in text


@pytest.mark.slow
@pytest.mark.skipif(bool(INSTALLED["onnxruntime-int8"]), reason=INSTALLED["onnxruntime-int8"] or "installed")
def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "test_resnet", "--size", "32", "--rounds", "1", "--passes", "1", "--json"]
    assert run([*command, "--against", "onnxruntime,onnxruntime-int8"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [v["name"] for v in found["variants"]] == ["packed", "onnxruntime", "onnxruntime-int8"]
    assert found["differences"]["onnxruntime"] < 1e-4 < found["differences"]["onnxruntime-int8"]
