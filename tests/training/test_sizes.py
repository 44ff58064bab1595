"""What a network takes and gives, found out before it is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_net import Small, values
from torch import Tensor, nn

from binarize import recipes
from binarize.data import Depth, Labels
from binarize.errors import BinarizeWarning, ConfigError
from binarize.networks.catalog import NETWORKS
from binarize.training.evaluation import predict
from binarize.training.loop import train
from binarize.training.sizes import check_size

THREE = Labels(names=("a", "b", "c"))


class Picky(nn.Module):
    """Takes sides that are multiples of a number, as networks with skip connections do."""

    def __init__(self, multiple: int, outputs: int = 3) -> None:
        super().__init__()
        self.multiple = multiple
        self.conv = nn.Conv2d(3, outputs, 1)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[2] % self.multiple == 0 and x.shape[3] % self.multiple == 0, "sides do not divide"  # noqa: PT018
        return self.norm(self.conv(x))


class Gives(nn.Module):
    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make, self.conv = make, nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Any:
        return self.make(self.conv(x))


@pytest.mark.parametrize(("multiple", "size", "near"), [
    (32, (100, 100), r"does not fit the network: sides do not divide\. It takes \[96, 96\] and \[128, 128\]"),
    (32, (96, 100), r"does not fit the network: .* It takes \[96, 96\] and \[96, 128\] "),
    (8, (7, 9), r"is too small for the network: .* It takes \[8, 8\] "),
    (224, (64, 64), r"is too small for the network: .* It takes \[224, 224\] "),
    (1000, (64, 64), r"the network fails at this size and at others near it: AssertionError: sides do not"),
])  # fmt: skip
def test_sizes_that_would_do_are_named(multiple: int, size: tuple[int, int], near: str) -> None:
    with pytest.raises(ConfigError, match=rf"data.x \[{size[0]}, {size[1]}\]:? {near}"):
        check_size(Picky(multiple), THREE, size, "data.x")


def test_the_network_is_as_it_was() -> None:
    net = Picky(4).train()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    state = torch.get_rng_state()
    check_size(net, THREE, (8, 8), "x", trained=True)
    assert net.training
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("make", "truth", "message"),
    [
        (lambda y: (y, y), THREE, r"gives a tuple \(0: tensor .*set network.output"),
        (lambda y: {"out": y}, THREE, "gives a dict"),
        (lambda y: y.mean((2, 3)), THREE, r"gives a tensor \(1, 3\), .* a classifier of whole images"),
        (lambda y: y[:, :2], THREE, r"has 2 classes, the data set has 3; set num_classes=3"),
        (lambda y: y, Depth(scale=1, most=10), r"gives 3 channels, expected metres \(N, 1, H, W\)"),
        (lambda y: y.mean((2, 3), keepdim=True), THREE, r"gives maps of 1x1 for images of 40x40"),
    ],
)
def test_what_no_loss_can_use(make: Any, truth: Labels | Depth, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_size(Gives(make), truth, (40, 40), "x", trained=True)


def test_coarser_maps_can_be_used() -> None:
    assert check_size(Gives(lambda y: y[..., ::32, ::16]), THREE, (64, 64), "x", trained=True) == (2, 4)
    assert check_size(Gives(lambda y: y[:, 0]), Depth(scale=1, most=10), (8, 6), "x", trained=True) == (8, 6)


def test_an_output_of_several() -> None:
    assert check_size(Gives(lambda y: (None, y)), THREE, (8, 8), "x", 1, trained=True) == (8, 8)
    with pytest.raises(ConfigError, match=r"\(0: NoneType, 1: tensor \(1, 3, 8, 8\)\).*network.output: 1"):
        check_size(Gives(lambda y: (None, y)), THREE, (8, 8), "x")


def test_outputs_without_a_class_are_named() -> None:
    with pytest.warns(BinarizeWarning, match=r"has 5 classes, the data set has 3: outputs 3 to 4 are never"):
        check_size(Picky(1, outputs=5), THREE, (8, 8), "x")
    with pytest.raises(
        ConfigError, match="has 5 classes, the data set has 3; let the callable take num_classes"
    ):
        check_size(Picky(1, outputs=5), THREE, (8, 8), "x", exact=True)


@pytest.mark.parametrize(("settings", "message"), [
    (["data.augmentation.size=[20, 30]"], r"data.augmentation.size \[20, 30\] does not fit .*\[16, 32\]"),
    (["data.evaluation.resize=[20, 30]"], r"data.evaluation.resize \[20, 30\] does not fit"),
    (["data.evaluation.resize=[20, 30]", "data.val=null"], r"evaluation.resize \[20, 30\] does not fit"),
    (["data.options.size=[40, 48]"], r"images of val \(see data.evaluation\) \[40, 48\] does not fit"),
    (["network.options={num_classes: 4}"], r"has 4 classes, the data set has 6; set num_classes=6"),
])  # fmt: skip
def test_a_training_does_not_begin(
    settings: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(encoder: str, task: str, num_classes: int, pretrained: bool = False) -> nn.Module:
        return Picky(16, num_classes)

    monkeypatch.setitem(NETWORKS._entries, "picky", build)
    plain = {**values(epochs=1), "method": None, "network": {"name": "picky", "encoder": "none"}}
    chosen = recipes.validate(recipes.apply_settings(plain, settings), "a test")
    with pytest.raises(ConfigError, match=message):
        train(chosen, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_output_that_only_training_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Aux(Small):
        def forward(self, x: Tensor) -> Any:
            y = super().forward(x)
            return (y, y) if self.training else y

    monkeypatch.setitem(NETWORKS._entries, "aux", lambda encoder, task, num_classes, pretrained: Aux(6, None))
    chosen = recipes.validate(
        {**values(epochs=1), "method": None, "network": {"name": "aux", "encoder": "x"}}, "x"
    )
    with pytest.raises(ConfigError, match=r"in training the network gives a tuple \(0: .*network.output: 0"):
        train(chosen, tmp_path / "run")


def test_images_that_do_not_fit_at_evaluation() -> None:
    with pytest.raises(ConfigError, match=r"cannot take an image of 200x100 .*It takes 192x96 and 192x128"):
        predict(Picky(32).eval(), torch.zeros(1, 3, 100, 200))
