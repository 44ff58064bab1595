"""Reports of runs, files and entries of the zoo: what they hold, that they load nothing, and their size."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import class_data
import pytest
import small_net
import yaml
from PIL import Image

from binarize.cli import run
from binarize.report import Extras, Insight, build, page, read
from binarize.report.panels import Panel, Panels
from binarize.training.build import dataset as build_dataset
from binarize.training.classify import classify


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of segmentation."""
    return _train(tmp_path_factory.mktemp("report"), {})


def _train(folder: Path, options: dict[str, str]) -> Path:
    values = small_net.values(epochs=2)
    values["about"] = "<b>shapes & co</b>"
    values["data"]["options"] |= options
    (folder / "small.yaml").write_text(yaml.safe_dump(values))
    assert run(["train", str(folder / "small.yaml"), "--out", str(folder / "run")]) == 0
    return folder / "run"


def _report(out: Path, *arguments: object) -> str:
    assert run(["report", *map(str, arguments), "--out", str(out), "--no-inspect"]) == 0
    return out.read_text(encoding="utf-8")


def _pictures(text: str) -> Iterator[Image.Image]:
    for data in re.findall(r'src="data:image/(?:png|jpeg);base64,([^"]+)"', text):
        yield Image.open(io.BytesIO(base64.b64decode(data)))


def test_a_run(trained: Path, tmp_path: Path) -> None:
    text = _report(tmp_path / "report.html", trained, "--images", 2)
    assert "&lt;b&gt;shapes &amp; co&lt;/b&gt;" in text
    assert "<b>shapes" not in text
    for section in ("predictions", "figures", "curves", "costs", "plan", "recipe"):
        assert f'<section id="{section}">' in text
    assert [picture.size for picture in _pictures(text)] == [(32, 32)] * 6
    assert text.count('type="range"') == 2
    figures = json.loads((trained / "test.json").read_text())["figures"]
    assert f"{figures['miou']:.4f}" in text
    assert all(f"<td>{name}</td>" in text for name in figures["class_iou"])
    assert "encoder.​3" in text
    assert len(re.findall("data:image/svg", text)) == 6  # three curves, for light and dark pages


def test_nothing_is_loaded_from_elsewhere(trained: Path, tmp_path: Path) -> None:
    text = _report(tmp_path / "report.html", trained, "--images", 1)
    places = re.findall(r'(?:src|href)="([^"]*)"', text) + re.findall(r"url\(([^)]*)\)", text)
    assert places
    assert all(place.startswith("data:") for place in places)
    assert "@import" not in text
    assert '<link rel="stylesheet' not in text


def test_depth(tmp_path: Path) -> None:
    text = _report(tmp_path / "report.html", _train(tmp_path, {"task": "depth"}), "--images", 1)
    assert "AbsRel" in text
    assert 'class="span"' in text
    assert [picture.format for picture in _pictures(text)] == ["JPEG"] * 3


def test_classification(tmp_path: Path) -> None:
    root = class_data.cifar_zips(tmp_path / "data", train=10, test=4)
    (tmp_path / "classes.yaml").write_text(yaml.safe_dump(class_data.values(root, epochs=1)))
    assert run(["train", str(tmp_path / "classes.yaml"), "--out", str(tmp_path / "run")]) == 0
    text = _report(tmp_path / "report.html", tmp_path / "run", "--images", 5)
    assert text.count('class="card"') == 5
    assert 'type="range"' not in text
    assert [picture.size for picture in _pictures(text)] == [(32, 32)] * 5
    subject = read(tmp_path / "run")
    recipe, truth = subject.recipe, subject.truth
    data = build_dataset(recipe, "test")
    cards = re.findall(r'class="card".*?</article>', text, re.DOTALL)
    for card, index in zip(cards, (4, 12, 20, 28, 36), strict=True):  # spread over 40 images
        image, target = data.load(index)
        shares = classify(subject.model, image, recipe.data.evaluation)
        best = [truth.names[i] for i in shares.topk(3).indices.tolist()]
        assert re.findall(r"<dt>(?:<b>)?(\w+)", card) == best
        percents = [float(n) for n in re.findall(r'class="n">(\d+\.\d) %', card)]
        assert percents == pytest.approx([100 * n for n in shares.topk(3).values.tolist()], abs=0.06)
        assert f"<h3>{truth.names[int(target)]} " in card
        assert (">right<" in card) == (best[0] == truth.names[int(target)])


def test_a_zoo_entry_with_its_log(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("binarize.files.zoo.folder", lambda: tmp_path / "zoo")
    assert run(["zoo", "add", str(trained), "--name", "mine"]) == 0
    text = _report(tmp_path / "report.html", "zoo:mine", "--images", 0)
    assert '<section id="curves">' in text
    assert "No curves" not in text


def test_without_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BINARIZE_DATA", raising=False)
    text = _report(tmp_path / "report.html", "zoo:camvid-bidense")
    assert "No images, so no predictions" in text
    assert (
        "No curves: this entry of the zoo was made without the log of its run; <code>binarize train" in text
    )
    assert '<section id="predictions">' not in text
    assert "0.3523" in text
    assert "1.07 MB" in text
    assert "by position" in text
    assert "Pedestrian" in text


def test_a_file_alone_and_its_packed_form(trained: Path, tmp_path: Path) -> None:
    alone = tmp_path / "net.safetensors"
    shutil.copy(trained / "model.safetensors", alone)
    assert run(["deploy", str(alone), "--out", str(tmp_path / "packed.safetensors")]) == 0
    text = _report(tmp_path / "a.html", alone, "--images", 0, "--packed", tmp_path / "packed.safetensors")
    assert "not in the folder of a run" in text
    size = (tmp_path / "packed.safetensors").stat().st_size
    assert page._size(size) in text
    text = _report(tmp_path / "b.html", tmp_path / "packed.safetensors", "--images", 1)
    assert "<td>honest</td>" in text
    assert "<td>paper</td>" not in text
    assert "give the run in place of its packed file" in text


def test_without_a_log_and_with_a_damaged_one(trained: Path, tmp_path: Path) -> None:
    """Figures that were measured before are used in any case, and what is whole of a log."""
    place = tmp_path / "run"
    shutil.copytree(trained, place)
    _report(tmp_path / "first.html", place, "--images", 0)  # measures, and keeps the figures
    kept = json.loads((place / "test.json").read_text())
    kept["figures"]["miou"] = 0.1234
    (place / "test.json").write_text(json.dumps(kept))
    with (place / "log.jsonl").open("a") as log:
        log.write('{"epoch": 3, "lo')
    text = _report(tmp_path / "second.html", place, "--images", 0)
    assert "0.1234" in text
    assert '<section id="curves">' in text
    assert "line 3, the last one, is not whole" in text
    (place / "log.jsonl").unlink()
    text = _report(tmp_path / "third.html", place, "--images", 0)
    assert "0.1234" in text
    assert "No curves" in text
    (place / "test.json").unlink()
    _report(tmp_path / "fourth.html", place, "--images", 0)
    assert (place / "test.json").is_file()  # the folder of a run: its state is there


def test_speed(trained: Path, tmp_path: Path) -> None:
    text = _report(tmp_path / "report.html", trained, "--images", 0, "--bench")
    assert '<section id="speed">' in text
    assert "channels_last" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["zoo:none"], "none"),
        (["{run}", "--out", "report.txt"], "ends in .html"),
        (["{run}", "--packed", "{run}/model.safetensors"], "not a packed file"),
        (["{run}", "--split", "nothing"], "nothing"),
        (["zoo:camvid-float", "--bench", "--images", "0"], "float network"),
    ],
)
def test_errors(
    arguments: list[str],
    message: str,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["report", *(text.format(run=trained) for text in arguments), "--no-inspect"]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_not_replaced(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("mine")
    assert run(["report", str(trained), "--out", str(tmp_path / "report.html")]) == 2
    assert (tmp_path / "report.html").read_text() == "mine"


def _panel(size: int) -> Panel:
    return Panel(title="a", size=(8, 8), image=b"x" * size, truth=b"", prediction=b"", form="png", figures="")


def test_the_size_is_limited(trained: Path) -> None:
    subject = read(trained)
    bare = len(build(subject).encode())
    insight = Insight(title="inside", picture=b"y" * 30_000, findings=("finding",), warnings=("warning",))
    extras = Extras(panels=Panels(panels=[_panel(30_000)] * 4), insights=[insight])
    whole = build(subject, extras)
    assert "inside" in whole
    assert "finding" in whole
    assert "were left out" not in whole
    limit = bare + 100_000
    text = build(subject, extras, limit=limit)
    assert len(text.encode()) <= limit
    assert text.count('class="panel"') == 1
    assert f"pictures were left out: the file would be larger than {limit / 1e6:g} MB" in text
    assert build(subject, extras, limit=1).count("<img") == whole.count("<img") - 4 * 3 - 1


def test_pictures_for_both_themes_and_for_phones(trained: Path) -> None:
    subject = read(trained)
    made = Insight(title="a", picture=b"1", dark=b"2", narrow=(b"3", b"4"), findings=("call `inspect` here",))
    text = build(subject, Extras(insights=[made]))
    shown = re.findall(r'<picture class="sheet ([\w-]+)">(.*?)</picture>', text, re.DOTALL)
    files = {
        kind: [base64.b64decode(data) for data in re.findall(r'base64,([^"]+)"', part)]
        for kind, part in shown
    }
    assert files == {"on-light": [b"3", b"1"], "on-dark": [b"4", b"2"]}
    assert "call <code>inspect</code> here" in text
    text = build(subject, Extras(insights=[Insight(title="a", picture=b"1")]))
    assert '<picture class="sheet paper">' in text
    speed = {"threads": 1, "machine": {"cpu": "c", "kernels": "k", "torch": "t"}, "shape": [1, 3, 8, 8]}
    speed["variants"] = [{"name": "packed", "median_ms": 1.0, "times_as_long": 1.0}]
    text = build(subject, Extras(speed={**speed, "advice": ["`binarize doctor` says why."]}))
    assert "<p><code>binarize doctor</code> says why.</p>" in text
