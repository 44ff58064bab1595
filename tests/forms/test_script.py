"""benchmarks/float_int8_one_bit.py: rows that are kept, the table between two marks, the page with it."""

from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from binarize import forms

ROOT = Path(__file__).parents[2]
ROWS = ROOT / "docs" / "choosing.json"
PAGE = ROOT / "docs" / "choosing.md"
UNTRAINED = "shapes/tiny-bidense=miou:0.5,pixel_accuracy:0.75"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "forms_script", ROOT / "benchmarks" / "float_int8_one_bit.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_files_of_the_script(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    results, page, plot = tmp_path / "rows.json", tmp_path / "page.md", tmp_path / "plot.png"
    page.write_text("# Title\n\n<!-- forms -->\nold\n<!-- end of forms -->\n\nlast\n", encoding="utf-8")
    files = ["--results", str(results), "--out", str(page), "--plot", str(plot)]
    assert script.main([UNTRAINED, "--pause", "--rounds", "1", *files]) == 0
    captured = capsys.readouterr()
    assert "press Enter" in captured.err
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Title\n\n<!-- forms -->\n\nshapes test, ")
    assert "old" not in text
    assert text.endswith("|\n\n<!-- end of forms -->\n\nlast\n")
    assert Image.open(io.BytesIO(plot.read_bytes())).format == "PNG"
    before = json.loads(results.read_text(encoding="utf-8"))
    assert script.main(["--json", *files]) == 0  # nothing new: drawn again from the kept rows
    assert json.loads(capsys.readouterr().out) == before
    assert page.read_text(encoding="utf-8") == text


def test_refusals_of_the_script(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.md"
    other.write_text("something\n", encoding="utf-8")
    assert script.main(["--out", str(other)]) == 2
    assert "no lines <!-- forms -->" in capsys.readouterr().err
    assert other.read_text(encoding="utf-8") == "something\n"
    assert script.main(["--results", str(other)]) == 2
    assert "holds no rows of this benchmark" in capsys.readouterr().err


def test_the_page_shows_the_kept_rows() -> None:
    kept: dict[str, Any] = json.loads(ROWS.read_text(encoding="utf-8"))
    assert forms.markdown(kept) in PAGE.read_text(encoding="utf-8"), (
        "run `python benchmarks/float_int8_one_bit.py --results docs/choosing.json --out docs/choosing.md`"
    )
    assert not any("/" in row["place"] for group in kept["data"].values() for row in group["rows"])
