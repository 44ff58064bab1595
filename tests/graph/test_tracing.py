"""A torch whose tracing fails for every module is an error; a module that cannot be traced is a note."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from binarize import plan
from binarize.errors import TraceError
from binarize.graph.trace.module_graph import _ModuleTracer


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
