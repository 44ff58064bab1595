"""A report in a real browser: no errors, nothing wider than the page, sliders that keys move."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import class_data
import pytest
import small_net
import yaml

from binarize.cli import run

pytestmark = pytest.mark.slow

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = os.environ.get("BINARIZE_BROWSER") or next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(_NAMES)} is on the PATH, nor is BINARIZE_BROWSER set")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    (folder / "small.yaml").write_text(yaml.safe_dump(small_net.values(epochs=2)))
    assert run(["train", str(folder / "small.yaml"), "--out", str(folder / "run")]) == 0
    out = folder / "report.html"
    assert run(["report", str(folder / "run"), "--out", str(out), "--images", "2", "--bench"]) == 0
    return out


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_the_page(browser: Any, report: Path, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    faults: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri())
    assert faults == []
    assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    broken = "[...document.images].filter(i => i.offsetParent && !(i.complete && i.naturalWidth)).length"
    assert page.evaluate(broken) == 0
    background = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(background)
    assert (sum(map(int, before[4:-1].split(","))) < 3 * 128) == (scheme == "dark")
    slider = page.locator(".compare input").first
    assert slider.is_visible()
    clip = "getComputedStyle(document.querySelector('.prediction img')).clipPath"
    start = page.evaluate(clip)
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert slider.input_value() == "51"
    assert page.evaluate(clip) != start
    pair = page.locator(".pair").first
    pair.click(position={"x": 0.25 * pair.bounding_box()["width"], "y": 10})
    assert slider.input_value() == "25"
    page.locator("#theme").focus()
    page.keyboard.press("Enter")
    assert page.evaluate(background) != before
    page.close()


@pytest.mark.parametrize("width", [400, 1400])
def test_a_page_of_whole_images(browser: Any, tmp_path: Path, width: int) -> None:
    root = class_data.cifar_zips(tmp_path / "data", train=10, test=4)
    (tmp_path / "classes.yaml").write_text(yaml.safe_dump(class_data.values(root, epochs=1)))
    assert run(["train", str(tmp_path / "classes.yaml"), "--out", str(tmp_path / "run")]) == 0
    out = tmp_path / "report.html"
    assert run(["report", str(tmp_path / "run"), "--out", str(out), "--no-inspect"]) == 0
    page = browser.new_page(viewport={"width": width, "height": 800})
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(out.as_uri())
    assert faults == []
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    boxes = [card.bounding_box() for card in page.locator(".card").all()]
    assert len(boxes) == 6
    assert len({box["y"] for box in boxes}) == (6 if width == 400 else 2)  # one beside the other where wide
    page.close()


def test_without_scripts(browser: Any, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False, viewport={"width": 1400, "height": 800})
    page = context.new_page()
    page.goto(report.as_uri())
    truth, prediction = (
        page.locator(f"{name} img").first.bounding_box() for name in (".truth", ".prediction")
    )
    assert truth["x"] + truth["width"] <= prediction["x"]
    assert truth["y"] == prediction["y"]
    assert not page.locator(".compare input").first.is_visible()
    assert not page.locator("#theme").is_visible()
    context.close()
