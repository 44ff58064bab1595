"""Pages that are made from code are what the code says now."""

from __future__ import annotations

import importlib.util
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def script(path: Path) -> ModuleType:
    """A script of docs/, which is not a package."""
    spec = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["cli.md", "catalogue.md"])
def test_generated_pages(name: str) -> None:
    made = script(DOCS / "generate.py").PAGES[name]()
    assert made == (DOCS / name).read_text(encoding="utf-8"), "run `python docs/generate.py`"


def test_pictures_show_what_the_code_computes() -> None:
    draw = script(DOCS / "pictures" / "draw.py")
    check_pictures(draw, [name for name in draw.drawings() if name != "costs"])


@pytest.mark.slow
def test_picture_of_costs() -> None:
    check_pictures(script(DOCS / "pictures" / "draw.py"), ["costs"])


def check_pictures(draw: ModuleType, names: list[str]) -> None:
    for name in names:
        stored = draw.stored(DOCS / "pictures" / f"{name}.png")
        figure, numbers = draw.drawings()[name]()
        figure.clear()
        assert stored.keys() == numbers.keys(), name
        for key, values in numbers.items():
            remedy = f"{name}, {key}: run `python docs/pictures/draw.py {name}`"
            assert values == pytest.approx(stored[key], rel=2e-3, abs=2e-3), remedy


def test_the_navigation_has_every_page() -> None:
    """Zensical builds pages that no menu leads to, and menus that lead to no page, without a word."""
    text = (DOCS.parent / "zensical.toml").read_text(encoding="utf-8")
    listed: set[str] = set()

    def walk(items: list[Any]) -> None:
        for entry in items:
            for value in entry.values():
                if isinstance(value, str):
                    listed.add(value)
                else:
                    walk(value)

    walk(tomllib.loads(text)["project"]["nav"])
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md") if "examples" not in path.parts}
    assert listed == pages


def test_pictures_are_small() -> None:
    sizes = [path.stat().st_size for path in (DOCS / "pictures").glob("*.png")]
    assert sum(sizes) < 1e6
