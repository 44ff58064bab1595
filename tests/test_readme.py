"""The README holds: its commands are those that are tested, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_two_commands():
    assert "\npip install . && binarize convert --method bidense convnext_tiny\n" in README
    assert "\npip install -e '.[test]' && pytest\n" in README
    assert "pip install -e '.[test]' && pytest" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_it_is_short():
    assert len(README.splitlines()) < 150


def test_links_lead_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
        missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
        assert not missing, page


def test_methods_are_all_named():
    from binarize import methods

    for name in methods.names():
        assert f"`{name}`" in README
        for option in methods.create(name).options():
            assert f"`{option}`" in (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
