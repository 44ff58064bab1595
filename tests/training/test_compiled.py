"""`training.compile`: the same training in compiled steps."""

from __future__ import annotations

import copy
import logging
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_net import Small, values
from torch import Tensor, nn

import binarize
from binarize import recipes
from binarize.errors import ConfigError
from binarize.training import setup
from binarize.training.compiled import CompiledForward
from binarize.training.environment import ShardingSettings
from binarize.training.loop import STATE, Event, StoppedError, train

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def recipe(**training: Any) -> recipes.Recipe:
    return recipes.validate(values(**training), "a test")


@pytest.fixture(autouse=True)
def _forgotten() -> None:
    torch._dynamo.reset()


def _gradients(net: nn.Module, forward: Any, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    net.zero_grad()
    output = forward(x)
    output.square().mean().backward()
    return output.detach(), [p.grad.clone() for p in net.parameters() if p.grad is not None]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["adabin", "bidense", "bit", "bnext", "lqnet", "rbnn", "recu"])
def test_compiled_layers_give_the_same_outputs_and_gradients(method: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, 2),
        nn.ReLU(),
        nn.Conv2d(16, 4, 1),
    )
    model = binarize.apply(net, method, example_inputs=torch.randn(2, 3, 12, 12)).train()
    x = torch.randn(4, 3, 12, 12)
    model(x)  # what starts from the first batch
    twin = copy.deepcopy(model)  # a step changes bases and running statistics
    forward = CompiledForward(twin)
    for progress in (0.0, 0.5, 1.0):  # schedules are not constants of the compiled code
        binarize.set_progress(model, progress)
        binarize.set_progress(twin, progress)
        wanted, gradients = _gradients(model, model, x)
        found, others = _gradients(twin, forward, x)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        assert len(gradients) == len(others)
        for own, other in zip(gradients, others, strict=True):
            torch.testing.assert_close(other, own, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the loss at the end")  # 24 steps teach little
def test_a_stopped_compiled_run_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(**training: Any) -> recipes.Recipe:
        chosen = values(batch=2, epochs=2, **training)  # 12 steps an epoch: of 3, all would be looked at
        return recipes.validate({**chosen, "method": {"name": "reste"}}, "a test")  # with a schedule

    calls: list[int] = []
    compiled = CompiledForward.__call__

    def counted(self: CompiledForward, images: Tensor) -> Tensor:
        calls.append(len(images))
        return compiled(self, images)

    monkeypatch.setattr(CompiledForward, "__call__", counted)
    chosen = made(compile=True)
    history = train(chosen, tmp_path / "whole")
    assert len(calls) >= 12  # most steps are compiled ones
    eager = train(made(), tmp_path / "eager")
    assert history[0]["loss"] == pytest.approx(eager[0]["loss"], rel=0.02)

    def stop(event: Event) -> None:
        if event.epoch == 1 and event.step == 5 and not event.figures:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(StoppedError):
        train(chosen, tmp_path / "parts", report=stop)
    torch._dynamo.reset()
    train(chosen, tmp_path / "parts", resume=True)
    whole, parts = (load_file(tmp_path / name / STATE) for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_layers_that_start_from_the_first_batch_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    level = logging.getLogger("torch._dynamo").level
    model = nn.Sequential(binarize.binary_layer(nn.Conv2d(3, 4, 3), "lqnet", activation_bits=2)).train()
    forward = CompiledForward(model)
    forward._call = torch.compile(model, backend="eager")
    for _ in range(2):
        forward(torch.randn(2, 3, 6, 6))
    assert "Graph break" not in capfd.readouterr().err
    assert logging.getLogger("torch._dynamo").level == level


def test_a_network_that_torch_cannot_compile_says_what_to_do() -> None:
    def fails(images: Tensor) -> Tensor:
        raise torch._dynamo.exc.Unsupported("a step that only Python can do")

    forward = CompiledForward(Small(2, None))
    forward._call = fails
    with pytest.raises(ConfigError, match=r"a step that only Python can do\. Leave training\.compile out"):
        forward(torch.zeros(2, 3, 32, 32))


def test_what_fails_without_compilation_keeps_its_own_error() -> None:
    def fails(images: Tensor) -> Tensor:
        raise torch._dynamo.exc.Unsupported("another text")

    forward = CompiledForward(nn.Conv2d(3, 4, 5))
    forward._call = fails
    with pytest.raises(RuntimeError, match="Kernel size"):
        forward(torch.zeros(2, 3, 4, 4))


def test_split_weights_are_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    class Two:
        num_processes = 2

    with pytest.raises(ConfigError, match=r"training\.compile does not go together with FSDP"):
        setup._strategy(Small(2, None), Two(), ShardingSettings(), compiled=True)  # type: ignore[arg-type]
