"""Classifiers of small images: the sizes that papers give, option A, the way by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import binarize
from binarize import model_names, networks
from binarize.errors import ConfigError
from binarize.model_info import input_size
from binarize.networks.cifar import PaddedShortcut


@pytest.mark.parametrize(("name", "weights", "layers"), [
    ("resnet20-cifar", 0.27, 20), ("resnet32-cifar", 0.46, 32),
    ("resnet18-cifar", 11.2, 21), ("vgg-small", 4.66, 7),
])  # fmt: skip
def test_sizes_of_the_papers(name: str, weights: float, layers: int) -> None:
    net = networks.create(f"{name}?num_classes=10")
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(weights, abs=0.05)
    assert sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in net.modules()) == layers
    assert net(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert input_size(net) == (3, 32, 32)


def test_option_a() -> None:
    x = torch.rand(2, 4, 5, 6)
    y = PaddedShortcut(4, 8)(x)
    assert torch.equal(y[:, 2:6], x[:, :, ::2, ::2])
    assert not y[:, :2].any()
    assert not y[:, 6:].any()


@pytest.mark.parametrize("method", ["bnn", "bidense", "reactnet", "irnet"])
def test_first_and_last_layer_stay_float(method: str) -> None:
    plan = binarize.plan(networks.build("resnet20-cifar", width=4), method)
    kept = [row.name for row in plan.rows if not row.converted]
    assert kept == ["conv1", "fc"]


def test_by_name_on_the_command_line() -> None:
    assert model_names.create("resnet20-cifar?num_classes=7&width=4").fc.out_features == 7
    with pytest.raises(ConfigError, match="takes no encoder"):
        networks.create("resnet20-cifar:resnet18")
    with pytest.raises(ConfigError, match="width=0; expected an integer"):
        networks.build("vgg-small", width=0)


def test_read_again_from_its_file(tmp_path: Path) -> None:
    net = binarize.apply(networks.build("vgg-small", width=8, num_classes=3), "bnn").eval()
    x = torch.rand(2, 3, 32, 32)
    again = binarize.load(binarize.save(net, tmp_path / "net.safetensors"))
    assert torch.equal(net(x), again(x))
