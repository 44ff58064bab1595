"""Weights of linear layers that programs read as bfloat16."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from program_nets import pair, programs, third
from torch import Tensor, nn
from torch.nn import functional as F

import binarize
from binarize import native, runtime
from binarize.native.library import available
from binarize.runtime.program.passes.bf16_weights import bf16_blocks

pytestmark = pytest.mark.skipif(not available(), reason="the native kernels are not built")


class Classified(nn.Module):
    """A classifier behind the mean, a layer in front of it as a convolution, one on all positions."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Conv2d(3, 40, 3, padding=1, bias=False), nn.BatchNorm2d(40)
        self.other = nn.Conv2d(40, 40, 3, padding=1, bias=False)
        self.hidden, self.fc = nn.Conv2d(40, 130, 1), nn.Linear(130, 19)
        self.dense = nn.Conv2d(40, 70, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.other(self.norm(self.layer(x)))
        mean = x.mean((2, 3), keepdim=True)
        return self.fc(F.hardswish(self.hidden(mean)).flatten(1)), torch.tanh(self.dense(torch.tanh(x)))


def deployed(**options: Any) -> Any:
    torch.manual_seed(0)
    _, packed = pair(Classified(), policy=binarize.Policy(keep=["layer", "hidden", "fc", "dense"]))
    return runtime.configure(packed, **options)


def reasons(net: Any) -> dict[str, str]:
    """Of each linear layer by its name: why its weights stay float32, or the empty text."""
    (program,) = programs(net)
    return {c.place: c.reason for c in program.graph.chances if c.fusion == "bf16_weights"}


@pytest.fixture
def all_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also weights that caches hold are stored as bfloat16."""
    monkeypatch.setattr(importlib.import_module("binarize.runtime.program.passes.bf16_weights"), "_SMALL", 0)


@pytest.mark.parametrize("isa", native.features().isas)
@pytest.mark.parametrize("threads", [1, 2])
def test_weights_are_rounded_and_nothing_else(all_weights: None, isa: Any, threads: int) -> None:
    x = torch.rand(2, 3, 16, 12)
    packed, rounded = deployed(precision="bf16", threads=threads), deployed(threads=threads)
    with torch.no_grad():
        for layer in (rounded.hidden, rounded.fc):
            layer.weight.copy_(layer.weight.bfloat16())
    try:
        native.set_isa(isa)
        y, expected = third(packed, x), third(rounded, x)
        errors = packed.binarize_programs.compared(x)
    finally:
        native.set_isa("auto")
    found = reasons(packed)
    assert [found[name] for name in ("hidden", "fc")] == ["", ""]
    assert found["dense"] == "many rows: the products take the time, not the weights"
    assert all(torch.equal(a, b) for a, b in zip(y, expected, strict=True))
    assert all(error.worst <= 1e-5 for error in errors)


def test_a_change_of_the_weights_is_noticed(all_weights: None) -> None:
    x = torch.rand(1, 3, 16, 12)
    packed = deployed(precision="bf16")
    before = third(packed, x)[0]
    with torch.no_grad():
        packed.fc.weight.mul_(2)
        packed.fc.bias.mul_(2)
    torch.testing.assert_close(third(packed, x)[0], 2 * before)


def test_weights_of_any_strides_are_taken(all_weights: None) -> None:
    x = torch.rand(1, 3, 16, 12)
    packed, turned = deployed(precision="bf16"), deployed(precision="bf16")
    turned.fc.weight = nn.Parameter(turned.fc.weight.detach().t().contiguous().t())
    assert turned.fc.weight.stride(1) != 1
    assert torch.equal(third(turned, x)[0], third(packed, x)[0])
    assert reasons(turned)["fc"] == ""
    turned.fc.bias = nn.Parameter(torch.stack([turned.fc.bias.detach()] * 2, 1)[:, 0])
    torch.testing.assert_close(third(turned, x)[0], third(packed, x)[0], rtol=1e-2, atol=1e-3)
    assert reasons(turned)["fc"] == "the bias is a view with gaps: torch computes the layer"


def test_one_copy_serves_all_calls_of_a_program(all_weights: None) -> None:
    packed = deployed(precision="bf16")
    third(packed, torch.rand(1, 3, 16, 12))
    (program,) = programs(packed)
    nodes = [n for n in program.graph.graph.nodes if "rounded" in n.kwargs]
    held = [program.graph.tensor(n.kwargs["rounded"]) for n in nodes]
    assert len(held) == 2
    for _ in range(2):  # as for calls that run at the same time
        steps = [s.arguments for s in program._instance().steps if hasattr(s.arguments, "bf16_weights")]
        assert [s.bf16_weights for s in steps if s.bf16_weights] == [t.data_ptr() for t in held]


def test_small_layers_and_float32_are_not_touched() -> None:
    x = torch.rand(1, 3, 16, 12)
    packed = deployed()
    third(packed, x)
    assert reasons(packed) == {}
    runtime.configure(packed, precision="bf16")
    third(packed, x)
    assert reasons(packed)["fc"] == "the weights are few: the caches hold them"


def test_layout_of_the_blocks() -> None:
    weight = torch.arange(19.0 * 3).view(19, 3)
    blocks = bf16_blocks(weight)
    assert blocks.shape == (2, 3, 16)
    assert blocks.is_contiguous()
    assert blocks[1, 2, 2] == weight[18, 2]
    assert blocks[0, 1, 15] == weight[15, 1]
    assert not blocks[1, :, 3:].any()
