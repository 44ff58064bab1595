"""The versions that are promised, those that the oldest environment has, and those named in messages."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from binarize.graph.trace.check_torch import OLDEST_TORCH

ROOT = Path(__file__).parents[1]
LINTERS = {"ruff", "pyright[nodejs]", "import-linter"}  # run on the newest versions only
OTHERS = {"coverage", "bench", "docs"}  # extras: what binarize is checked on, compared with, described by


def promised() -> dict[str, str]:
    """What the tests need, too; networks and programs of others are checked with those that are installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [lines for name, lines in project["optional-dependencies"].items() if name not in OTHERS]
    lines = [*project["dependencies"], *(line for extra in extras for line in extra)]
    return dict(line.split(">=") for line in lines)


@pytest.mark.parametrize(("name", "bound"), promised().items())
def test_the_oldest_environment_has_what_is_promised(name: str, bound: str) -> None:
    lines = (ROOT / "tests" / "oldest.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    if name in LINTERS:
        return
    assert pinned[name] == bound or pinned[name].startswith(f"{bound}.")


def test_messages_name_the_oldest_torch() -> None:
    assert promised()["torch"] == OLDEST_TORCH
