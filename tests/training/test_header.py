"""What a run says of itself before its first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_net import values

from binarize import recipes
from binarize.training.header import first_line
from binarize.training.loop import Event, train


def recipe(**changes: Any) -> recipes.Recipe:
    return recipes.validate({**values(epochs=2), **changes}, "a test")


def said(chosen: recipes.Recipe, out: Path, **given: Any) -> dict[str, str]:
    lines: list[str] = []
    train(chosen, out, tell=lines.append, **given)
    return {line[:9].strip(): line[9:] for line in lines}


def test_a_run_says_what_it_trains_on_what_and_from_where(tmp_path: Path) -> None:
    lines = said(recipe(), tmp_path / "run")
    binary = 16 * 8 * 9 + 16 * 16 * 9
    assert lines["network"].startswith(f"small on none, bidense: {binary:,} weights of one bit in 2 layers, ")
    assert lines["data"].startswith("shapes: 24 images of train, ")
    assert lines["steps"] == "2 epochs of 3 steps of 8 images, learning rate at most 0.003, seed 0"
    assert lines["device"].startswith("cpu, float32, ")
    assert lines["start"] == "random weights"
    assert said(recipe(), tmp_path / "run", resume=True) == {}  # it is complete: nothing is trained


def test_a_float_run_has_no_binary_weights(tmp_path: Path) -> None:
    changed = {"method": None, "training": {**values()["training"], "epochs": 1}}
    lines = said(recipe(**changed), tmp_path / "run")
    assert "one bit" not in lines["network"]
    assert lines["steps"].startswith("1 epoch of ")


def test_a_run_that_goes_on_says_from_where(tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop(event: Event) -> None:
        if event.epoch == 1:
            raise StopError

    with pytest.raises(StopError):
        train(recipe(), tmp_path / "run", report=stop)
    assert said(recipe(), tmp_path / "run", resume=True)["start"] == "continued after 1 epoch"


def test_the_first_line_needs_no_data() -> None:
    chosen = recipe(about="drawn images")
    assert first_line("mine.yaml", chosen) == "recipe   mine.yaml: drawn images"
    assert first_line("mine.yaml", recipe()) == "recipe   mine.yaml"
