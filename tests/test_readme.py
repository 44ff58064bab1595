"""The README holds: its commands are those that are tested, its examples run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rich.console import Console

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_two_commands():
    assert "    pip install . && binarize convert --method bidense convnext_tiny\n" in README
    assert "    pip install -e '.[test]' && pytest\n" in README
    assert "pip install -e '.[test]' && pytest" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert all((ROOT / link).exists() for link in links if "://" not in link)


def test_methods_are_all_named():
    from binarize import methods

    for name in methods.names():
        assert f"`{name}`" in README
        assert f"| `{name}` |" in (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
        for option in methods.create(name).options():
            assert f"`{option}`" in (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_python_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"print": Console(width=80, quiet=True).print}
    for block in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL):
        exec(compile(block, "README.md", "exec"), names)  # the examples themselves are under test
    assert (tmp_path / "resnet18-bidense.safetensors").exists()
