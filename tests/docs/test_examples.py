"""The scripts of docs/examples: each runs alone, and what it trains beats a prediction that sees no image."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
SCRIPTS = ("binarize_my_unet", "classifier_to_depth", "compare_three_methods")


def started(script: str, folder: Path, *words: str) -> str:
    """What the script prints, run as a user runs it."""
    environment = os.environ | {"XDG_CONFIG_HOME": str(folder / "config"), "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{script}.py"), *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def figures(text: str, name: str) -> dict[str, float]:
    """The numbers behind `name` in a table, by the first words of their lines."""
    found = re.findall(rf"^(\w[\w, ]*?) +{name} (\d\.\d+)", text, re.MULTILINE)
    return {what: float(number) for what, number in found}


def test_the_page_names_every_example() -> None:
    page = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    for path in EXAMPLES.iterdir():
        if path.name != "__pycache__":
            assert f"(examples/{path.name}" in page, path


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_shows_how_to_call_it(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    names = runpy.run_path(str(EXAMPLES / f"{script}.py"))
    with pytest.raises(SystemExit, match="0"):
        names["parsed"](["--help"])
    assert f"python docs/examples/{script}.py\n" in capsys.readouterr().out
    for line in re.findall(r"^ +python docs/examples/\w+\.py(.*)$", names["__doc__"], re.MULTILINE):
        names["parsed"](shlex.split(line))  # the options of its own examples exist


@pytest.mark.slow
def test_a_unet_on_images_of_the_reader(tmp_path: Path) -> None:
    """In a few seconds: files are read, masks' values become classes, all steps run."""
    random = np.random.default_rng(0)
    for folder, ending in (("photos", "jpg"), ("masks", "png")):
        (tmp_path / folder).mkdir()
        for i in range(5):
            shape = (40, 60, 3) if folder == "photos" else (40, 60)
            array = 255 * random.integers(0, 2, shape, dtype=np.uint8)
            Image.fromarray(array).save(tmp_path / folder / f"{i}.{ending}")
    text = started("binarize_my_unet", tmp_path, *["--images", "photos", "--masks", "masks", "--epochs", "1"])
    assert set(figures(text, "mIoU")) == {"constant prediction", "float", "binary, packed"}
    assert (tmp_path / "my-unet" / "predictions.png").is_file()


@pytest.mark.slow
def test_masks_that_fit_no_image(tmp_path: Path) -> None:
    for folder in ("photos", "masks"):
        (tmp_path / folder).mkdir()
    words = ["--images", "photos", "--masks", "masks"]
    with pytest.raises(AssertionError, match="0 files of the same names; expected 3 or more"):
        started("binarize_my_unet", tmp_path, *words)


@pytest.mark.slow
def test_binarize_my_unet(tmp_path: Path) -> None:
    found = figures(started("binarize_my_unet", tmp_path), "mIoU")
    assert found["float"] > 0.85
    assert found["binary, packed"] > 0.7
    assert found["constant prediction"] < 0.35
    folder = tmp_path / "my-unet"
    assert 4 * (folder / "packed.safetensors").stat().st_size < (folder / "float.safetensors").stat().st_size
    with Image.open(folder / "predictions.png") as picture:
        assert picture.width > 600


@pytest.mark.slow
def test_classifier_to_depth(tmp_path: Path) -> None:
    text = started("classifier_to_depth", tmp_path)
    found = figures(text, "AbsRel")
    assert found["binary, packed"] < 0.7 * found["constant prediction"]
    assert found["float"] < 0.7 * found["constant prediction"]
    assert "random weights: see --pretrained" in text
    assert (tmp_path / "depth" / "predictions.png").is_file()


@pytest.mark.slow
def test_compare_three_methods(tmp_path: Path) -> None:
    started("compare_three_methods", tmp_path)
    table = json.loads((tmp_path / "methods" / "table.json").read_text())
    rows = {row["method"]: row for row in table["rows"]}
    assert list(rows) == ["float", "bnn", "reactnet", "bidense"]
    for row in rows.values():
        assert row["miou"] > 1.5 * table["constant"]
        assert row["ms"] > 0
        assert row is rows["float"] or row["mb"] < 0.2 * rows["float"]["mb"]
    assert (tmp_path / "methods" / "methods.png").is_file()


# ---- The walk: own network, own images, in the commands of the quick start. ----


def walk() -> list[str]:
    text = (EXAMPLES / "own_model_walk.py").read_text(encoding="utf-8")
    return re.search(r'COMMANDS = r"""\n(.*?)"""', text, re.DOTALL)[1].splitlines()


def test_the_walk_is_that_of_the_quick_start() -> None:
    page = (ROOT / "docs" / "quick-start.md").read_text(encoding="utf-8")
    section = page[page.index("## 4.") : page.index("## Where to go next")]
    blocks = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    assert "".join(blocks).splitlines() == walk()


@pytest.mark.slow
def test_the_walk(tmp_path: Path) -> None:
    text = started("own_model_walk", tmp_path)
    folder = tmp_path / "walk"
    for line in walk():
        assert f"$ {line}\n" in text
    for made in ("packed.safetensors", "inspected", "report.html", "predictions"):
        assert (folder / made).exists(), made
    assert 3 * (folder / "packed.safetensors").stat().st_size < (
        (folder / "runs/recipe/model.safetensors").stat().st_size
    )
    assert '<section id="inside">' in (folder / "report.html").read_text(encoding="utf-8")
    # the figure that `report` keeps, against what `data floor` prints
    floors = [float(n) for n in re.findall(r"(?:constant|position) +miou\D*(\d\.\d+)", text)]
    reached = json.loads((folder / "runs/recipe/test.json").read_text())["figures"]["miou"]
    assert floors
    assert reached > 1.5 * max(floors)
