"""What `training.start_from` takes, what it reports, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from small_net import Small, values
from torch import nn

import binarize
from binarize import recipes
from binarize.data import create
from binarize.errors import BinarizeError, BinarizeWarning, ConfigError
from binarize.files.zoo import locate
from binarize.training import saved
from binarize.training.build import network


def begin(start: Path | str, told: list[str] | None = None, **given: Any) -> nn.Module:
    method = given.pop("method", {"name": "bidense"})
    recipe = recipes.validate({**values(start_from=str(start), **given), "method": method}, "a test")
    return network(recipe, create("shapes", "val", size=(32, 32), number=3).truth, tell=(told or []).append)


def classes() -> int:
    return len(create("shapes", "val", size=(32, 32), number=3).truth.names)


@pytest.fixture
def whole() -> Small:
    torch.manual_seed(7)
    return Small(classes(), None)


def test_a_head_of_other_classes_is_left_out_by_name(tmp_path: Path) -> None:
    other = Small(classes() + 3, None)
    torch.save(other.state_dict(), tmp_path / "other.pth")
    with pytest.warns(
        BinarizeWarning, match=r"2 of another shape \(classifier.weight is \d+x16x1x1, expected"
    ):
        net = begin(tmp_path / "other.pth", start_fit="most", method=None)
    assert torch.equal(net.state_dict()["encoder.6.weight"], other.state_dict()["encoder.6.weight"])


def test_strictness(tmp_path: Path, whole: Small) -> None:
    state = whole.state_dict()
    few = {"encoder.0.weight": state["encoder.0.weight"], "other": torch.zeros(3)}
    torch.save(few, tmp_path / "few.pth")
    with pytest.raises(ConfigError, match=r"1 of \d+ tensors fit.*less than half.*another architecture"):
        begin(tmp_path / "few.pth")
    with pytest.warns(BinarizeWarning, match=r"unknown to the network \(other\)"):
        net = begin(tmp_path / "few.pth", start_fit="any")
    assert torch.equal(net.state_dict()["encoder.0.weight"], few["encoder.0.weight"])
    state.pop("classifier.bias")
    torch.save(state, tmp_path / "nearly.pth")
    with pytest.raises(ConfigError, match=r"missing in the file.*start_fit=most would take what fits"):
        begin(tmp_path / "nearly.pth", start_fit="all", method=None)
    torch.save({"x": torch.zeros(1)}, tmp_path / "nothing.pth")
    with pytest.raises(ConfigError, match=r"0 of \d+ tensors fit"):
        begin(tmp_path / "nothing.pth", start_fit="any")


def test_a_wrong_architecture_is_refused(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "resnet.pth")
    with pytest.raises(ConfigError, match=r"fits neither the float network nor the binary one.*0 of"):
        begin(tmp_path / "resnet.pth")


def test_files_of_binary_networks(tmp_path: Path, whole: Small) -> None:
    binary = binarize.apply(whole, "bidense", example_inputs=torch.rand(1, 3, 32, 32))
    with torch.no_grad():
        for parameter in binary.parameters():
            parameter.add_(0.01)
    binarize.save(binary, tmp_path / "b.safetensors")
    torch.save(binary.state_dict(), tmp_path / "b.pth")
    told: list[str] = []
    for name in ("b.safetensors", "b.pth"):
        net = begin(tmp_path / name, told)
        assert all(torch.equal(net.state_dict()[n], t) for n, t in binary.state_dict().items())
    with pytest.raises(ConfigError, match="holds a binary network, and this training is of a float one"):
        begin(tmp_path / "b.safetensors", method=None)
    # another method has other parts, and the same latent weights
    with pytest.warns(BinarizeWarning, match=r"missing in the file|unknown to the network"):
        net = begin(tmp_path / "b.safetensors", method={"name": "reactnet"})
    assert torch.equal(net.state_dict()["encoder.3.weight"], binary.state_dict()["encoder.3.weight"])
    binarize.save(binarize.deploy(binary), tmp_path / "p.safetensors", packed=True)
    with pytest.raises(BinarizeError, match="latent weights are gone"):
        begin(tmp_path / "p.safetensors")


def test_a_float_network_is_loaded_before_the_conversion(tmp_path: Path, whole: Small) -> None:
    binarize.save(whole, tmp_path / "f.safetensors")
    net = begin(tmp_path / "f.safetensors")
    expected = binarize.apply(whole, "bidense", example_inputs=torch.rand(1, 3, 32, 32))
    for name in ("encoder.3.weight", "classifier.bias"):
        assert torch.equal(net.state_dict()[name], expected.state_dict()[name])


def test_entries_of_the_zoo() -> None:
    told: list[str] = []
    _, model, truth = saved.load_with_truth(Path("zoo:camvid-float"))
    given = recipes.load("camvid/convnext_atto-bidense", ["training.start_from=zoo:camvid-float"])
    net = network(given, truth, tell=told.append)
    latent = [m.weight for m in net.modules() if isinstance(m, binarize.layers.BinaryLayer)]
    expected = [m.weight for m in binarize.apply(model, "bidense").modules()
                if isinstance(m, binarize.layers.BinaryLayer)]  # fmt: skip
    assert len(latent) == len(expected) > 20
    assert all(torch.equal(a, b) for a, b in zip(latent, expected, strict=True))
    total = len(model.state_dict())
    assert told == [f"start_from {locate('zoo:camvid-float')}: {total} of {total} tensors"]
    packed = recipes.load("camvid/convnext_atto-bidense", ["training.start_from=zoo:camvid-bidense"])
    with pytest.raises(BinarizeError, match="is a packed file: its latent weights are gone"):
        network(packed, truth)
