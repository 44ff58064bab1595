"""Binary layers whose inputs never change sign: named in the log, and looked for without a trace."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_net import values
from torch import nn
from torch.nn import functional as F

from binarize import apply, binary_layer, recipes
from binarize.cli.train import Screen
from binarize.layers import BinaryLayer
from binarize.training.inputs import InputWatch
from binarize.training.loop import LOG, Event, train

CPU = torch.device("cpu")


def history(tmp_path: Path, **options: Any) -> list[dict[str, Any]]:
    given = values(epochs=2)
    given["method"] = {"name": "bnn", "options": options}
    return train(recipes.validate(given, "a test"), tmp_path / "run")


def test_layers_behind_relus_are_named_if_their_sign_is_taken(tmp_path: Path) -> None:
    figures = history(tmp_path, nonlinearity="own")
    assert [line["constant_inputs"] for line in figures] == [["encoder.3", "encoder.6"]] * 2
    lines = (tmp_path / "run" / LOG).read_text().splitlines()
    assert json.loads(lines[0])["constant_inputs"] == ["encoder.3", "encoder.6"]
    text = io.StringIO()
    with Screen(2, text) as screen:
        screen.show(Event(epoch=0, step=3, steps=3, loss=1.0, rate=0.1, images=8, figures=figures[0]))
    assert "warning: no channel of the input of encoder.3, encoder.6 changed its sign" in text.getvalue()


def test_nothing_is_said_of_layers_that_see_something(tmp_path: Path) -> None:
    assert not any("constant_inputs" in line for line in history(tmp_path))


@pytest.mark.parametrize("method", ["bnn", "adabin", "reactnet", "bisrnet", "bidense"])
def test_what_counts_is_the_bit(method: str) -> None:
    """Whatever a method's thresholds and values are."""
    layer = binary_layer(nn.Conv2d(4, 4, 3), method)
    net = nn.Sequential(layer)
    watch = InputWatch(net, 1, CPU)
    with watch.looked_at(0):
        net(torch.randn(2, 4, 8, 8))
    assert watch.constant() == []
    watch.restart()
    shift = torch.tensor([3.0, -3.0, 3.0, -3.0]).view(1, 4, 1, 1)  # each channel keeps a sign of its own
    with watch.looked_at(0):
        net(0.1 * torch.rand(2, 4, 8, 8) + shift)
    assert watch.constant() == ["0"]
    if method == "bidense":  # a threshold at the mean
        watch.restart()
        with torch.no_grad():
            layer.quantizer.k.fill_(1.0)
        with watch.looked_at(0):
            net(0.1 * torch.rand(2, 4, 8, 8) + shift)
        assert watch.constant() == []


def test_an_epoch_is_looked_at_as_a_whole() -> None:
    layer = binary_layer(nn.Linear(4, 4), "bnn")
    net = nn.Sequential(layer)
    watch = InputWatch(net, 8, CPU)
    x = torch.rand(3, 4)
    for step in range(8):
        with watch.looked_at(step):
            net(-x if step == 7 else x)  # another sign in the last step
    assert watch.constant() == []
    watch.restart()
    for step in range(8):
        with watch.looked_at(step):
            net(x)
    assert watch.constant() == ["0"]


def test_few_steps_are_looked_at_and_nothing_is_left_behind() -> None:
    net = apply(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 2, 1)), "bnn",
                example_inputs=torch.zeros(1, 1, 8, 8))  # fmt: skip
    looked: list[int] = []
    (layer,) = (m for m in net.modules() if isinstance(m, BinaryLayer))
    own = layer.quantizer.is_upper
    layer.quantizer.is_upper = lambda x: looked.append(len(x)) or own(x)  # type: ignore[method-assign, func-returns-value]
    watch = InputWatch(net, 100, CPU)
    x = F.relu(torch.randn(16, 1, 8, 8)) + 1
    before = torch.get_rng_state()
    for step in range(100):
        with watch.looked_at(step):
            net(x)
    assert 1 <= len(looked) <= 5
    assert set(looked) == {4}  # samples
    assert torch.equal(before, torch.get_rng_state())
    assert not layer._forward_pre_hooks
