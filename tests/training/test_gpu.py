"""Runs of a few seconds on a CUDA device, where there is one."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from small_net import values

from binarize import recipes
from binarize.training import saved
from binarize.training.build import dataset
from binarize.training.evaluation import evaluate
from binarize.training.loop import MODEL, Event, StoppedError, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def forget() -> None:
    """Let the next run in this process choose its device again."""
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(autouse=True)
def _accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    forget()
    yield
    forget()


@pytest.mark.parametrize("options", [{}, {"precision": "bf16"}, {"channels_last": True}], ids=str)
@pytest.mark.parametrize("method", ["bnn", "reactnet", "adabin", "bisrnet", "bidense"])
def test_a_run_learns_what_it_learns_on_a_cpu(
    method: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = recipes.validate({**values(class_balance=0.5, **options), "method": {"name": method}}, "a test")
    torch.cuda.reset_peak_memory_stats()
    used = torch.cuda.memory_allocated()
    there = train(chosen, tmp_path / "cuda")
    assert torch.cuda.max_memory_allocated() > used
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    forget()
    here = train(chosen, tmp_path / "cpu")
    assert there[0]["loss"] == pytest.approx(here[0]["loss"], rel=0.02)
    assert there[-1]["loss"] == pytest.approx(here[-1]["loss"], rel=0.1)
    assert {t.dtype for t in load_file(tmp_path / "cuda" / MODEL).values()} <= {torch.float32, torch.int64}


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path) -> None:
    chosen = recipes.validate(values(ema=0.9), "a test")
    whole = train(chosen, tmp_path / "whole")

    def press(event: Event) -> None:
        if event.epoch == 1 and event.step == 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(StoppedError, match="Continue with --resume"):
        train(chosen, tmp_path / "parts", report=press)
    parts = train(chosen, tmp_path / "parts", resume=True)
    assert [h["loss"] for h in parts] == pytest.approx([h["loss"] for h in whole], rel=1e-3)


def test_evaluation_gives_the_same_on_both(tmp_path: Path) -> None:
    train(recipes.validate(values(), "a test"), tmp_path / "run")
    recipe, model = saved.load(tmp_path / "run")
    data = dataset(recipe, "test")
    here = evaluate(model, data, batch=8)
    there = evaluate(model.cuda(), data, device=torch.device("cuda"), batch=8)
    assert there["miou"] == pytest.approx(here["miou"], abs=0.01)
    assert there["pixel_accuracy"] == pytest.approx(here["pixel_accuracy"], abs=0.01)
