"""A torch whose tracing fails for every module is an error; a module that cannot be traced is a note."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from binarize import plan
from binarize.errors import TraceError
from binarize.graph.trace.module_graph import _ModuleTracer
from binarize.graph.trace.recorder import record


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.conv(x))


class Untraceable(nn.Module):
    """The only module with a forward of its own, which decides by values."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 16, 3), *(nn.Conv2d(16, 16, 3) for _ in range(4)))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Any:
        y = self.layers(x).mean((2, 3))
        return {"scores": self.head(y)} if int(x.shape[0]) and bool((x == x).all()) else None


def as_torch_2_9_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make fx ask a function that it is to run for its annotations, whatever that is."""
    arguments: Callable[..., Any] = _ModuleTracer.create_args_for_root

    def given(self: Any, *args: Any, **kwargs: Any) -> Any:
        function, values = arguments(self, *args, **kwargs)

        def asked(*inputs: Any) -> Any:
            functools.partial(function).__annotations__  # noqa: B018
            return function(*inputs)

        return asked, values

    monkeypatch.setattr(_ModuleTracer, "create_args_for_root", given)


@pytest.mark.parametrize("blocks", [0, 3])
def test_a_failure_in_every_module_is_an_error_that_names_the_version(
    blocks: int, small_net: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_net.stem = nn.Sequential(small_net.stem, *(Block() for _ in range(blocks)))
    x = torch.zeros(2, 3, 32, 32)
    assert not plan(small_net, example_inputs=x).notes
    as_torch_2_9_did(monkeypatch)
    with pytest.raises(TraceError) as caught:
        plan(small_net, example_inputs=x)
    text = str(caught.value)
    assert f"torch {torch.__version__} traces no module: {blocks + 1} of the {blocks + 1}" in text
    assert "AttributeError: 'functools.partial' object has no attribute '__annotations__'" in text
    assert "torch 2.9 to" in text
    assert "pip install 'torch>=2.9,<" in text


def test_the_only_module_being_untraceable_is_a_note() -> None:
    made = plan(Untraceable(), example_inputs=torch.randn(2, 3, 32, 32))
    assert any("converted part by part" in note for note in made.notes)
    assert any(row.converted for row in made.rows)


class OnNumbers(BatchNormAct2d):
    """Runs on real tensors only."""

    def forward(self, x: Tensor) -> Tensor:
        if type(x) is FakeTensor:
            raise ValueError("no numbers")
        return super().forward(x)


@pytest.mark.parametrize(
    ("act", "channels"),
    [(nn.ReLU(inplace=True), 8), (nn.Identity(), 8), (nn.GLU(1), 4)],
    ids=["relu", "identity", "glu"],
)
def test_norms_with_an_activation_are_run_only_if_that_may_change_the_shape(
    act: nn.Module, channels: int
) -> None:
    norm = OnNumbers(8)
    norm.act = act
    net, x = nn.Sequential(nn.Conv2d(3, 8, 3), norm).eval(), torch.zeros(2, 3, 6, 5)
    recording = record(net, (x,))
    assert recording.fake == (channels == 8)  # else recorded again, on real tensors
    (result,) = recording.graph.output_node().args[0]
    assert result.meta["shape"] == (2, channels, 4, 3) == tuple(net(x).shape)
