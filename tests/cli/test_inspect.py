"""`binarize inspect` from the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import small_net
import yaml
from PIL import Image

from binarize import recipes
from binarize.cli import run
from binarize.inspect import ANALYSES
from binarize.inspect.inspection import Settings, Skipped, inspect_networks
from binarize.inspect.section import Section
from binarize.inspect.subject import load_networks, load_subjects, spread
from binarize.training import loop


def trained(folder: Path, method: str | None = "bidense", task: str = "segmentation", **data: Any) -> str:
    values = small_net.values(epochs=1)
    values["method"] = {"name": method} if method else None
    values["data"]["options"]["task"] = task
    values["data"]["options"] |= data
    path = folder / f"{method}-{task}.yaml"
    path.write_text(yaml.safe_dump(values))
    out = folder / f"{method}-{task}{len(data)}"
    loop.train(recipes.load(str(path)), out)
    return str(out)


def test_all_analyses_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place, out = trained(tmp_path), tmp_path / "out"
    command = ["inspect", place, "--out", str(out), "--images", "8", "--budget-bytes", "1e4"]
    assert run(command) == 0
    printed = capsys.readouterr().out
    assert all(len(line) <= 80 for line in printed.splitlines() if str(out) not in line)
    for analysis in ANALYSES:
        names = {path.suffix for path in out.glob(f"{analysis}.*")}
        assert names == {".png", ".json", ".csv"}
        with Image.open(out / f"{analysis}.png") as picture:
            assert picture.size[0] > 300
        document = json.loads((out / f"{analysis}.json").read_text())
        assert set(document) == {"schema", "analysis", "title", "findings", "warnings", "data"}
        assert document["schema"] == 1
        assert document["analysis"] == analysis
        assert document["findings"]
        assert list(document["data"]) == ["bidense"]
        rows = list(csv.DictReader((out / f"{analysis}.csv").read_text().splitlines()))
        assert {row["network"] for row in rows} == {"bidense"}
    assert "Information entropy" in printed
    assert f"{3 * len(ANALYSES)} files: {out}" in printed
    assert run(command) == 2  # the files exist
    assert "--force" in capsys.readouterr().err
    assert run([*command, "--force", "--what", "entropy", "--format", "svg,pdf"]) == 0
    assert (out / "entropy.svg").read_text().startswith("<?xml")
    assert (out / "entropy.pdf").read_bytes().startswith(b"%PDF")


def test_several_networks_packed_and_float(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other, plain = trained(tmp_path), trained(tmp_path, "bnn"), trained(tmp_path, None)
    packed = str(tmp_path / "packed.safetensors")
    assert run(["deploy", f"{one}/model.safetensors", "--out", packed]) == 0
    capsys.readouterr()
    out = tmp_path / "out"
    given = ["inspect", other, packed, plain, "--out", str(out), "--images", "6", "--json"]
    assert run([*given, "--what", "entropy,weights", "--what", "bypass,gradients"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["networks"] == {"bnn": other, "bidense": packed, "float": plain}
    assert document["images"] == 6
    sections = {section["name"]: section for section in document["sections"]}
    assert set(sections) == {"entropy", "weights-bnn", "weights-bidense", "bypass", "gradients"}
    assert list(sections["entropy"]["data"]) == ["bnn", "bidense"]
    flipped = sections["weights-bidense"]["data"]["bidense"]["flipped"]
    assert all(0 <= share <= 1 for share in flipped)
    skipped = {(one["analysis"], one["label"]) for one in document["skipped"]}
    assert {("entropy", "float"), ("gradients", "bidense")} <= skipped
    assert all(Path(name).is_file() for name in document["files"])


def test_sensitivity_of_a_float_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place, out = trained(tmp_path, None, task="depth"), tmp_path / "out"
    given = ["inspect", place, "--out", str(out), "--images", "4", "--method", "reactnet", "--by", "layer"]
    assert run([*given, "--budget-ops", "1e9"]) == 0
    assert "AbsRel" in capsys.readouterr().out
    found = json.loads((out / "sensitivity.json").read_text())["data"]["float"]
    assert found["from_float"]
    assert found["groups"] == ["encoder.3", "encoder.6"]
    assert found["gain"] == pytest.approx([c - found["base"] for c in found["changed"]], abs=1e-5)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--what", "entropie"], "did you mean 'entropy'"),
        (["--format", "gif"], "expected png, svg or pdf"),
        (["--method", "bidens"], "did you mean 'bidense'"),
        (["--split", "tset"], "tset"),
        (["--images", "0"], "--images"),
        (["--budget-bytes", "-1"], "--budget-bytes"),
        (["--what", "sensitivity"], "nothing to show: sensitivity of bnn"),
    ],
)
def test_wrong_input(
    more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = trained(tmp_path, "bnn")
    if "sensitivity" in more:
        assert run(["deploy", f"{packed}/model.safetensors", "--out", str(tmp_path / "p.safetensors")]) == 0
        packed = str(tmp_path / "p.safetensors")
    capsys.readouterr()
    assert run(["inspect", packed, "--out", str(tmp_path / "out"), *more]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_networks_of_different_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = trained(tmp_path), trained(tmp_path, task="depth")
    assert run(["inspect", one, other, "--out", str(tmp_path / "out")]) == 2
    assert "expected networks of one data set" in capsys.readouterr().err
    assert run(["inspect", str(tmp_path / "nothing"), "--out", str(tmp_path / "out")]) == 2
    assert "no such file" in capsys.readouterr().err


def test_sections_for_other_reports(tmp_path: Path) -> None:
    """Title, figure and findings, without the command line."""
    paths = [Path(trained(tmp_path)), Path(trained(tmp_path, "reactnet"))]
    subjects = load_subjects(paths, ["one", "two"], load_networks(paths), images=5)
    seen: list[str] = []

    def watch(what: str, total: int) -> Any:
        import contextlib

        seen.append(what)
        return contextlib.nullcontext(lambda done: None)

    made = list(inspect_networks(subjects, ["entropy", "maps"], Settings(watch=watch)))
    assert [section.name for section in made if isinstance(section, Section)] == ["entropy", "maps"]
    assert not any(isinstance(section, Skipped) for section in made)
    first = made[0]
    assert isinstance(first, Section)
    assert first.title
    assert first.findings
    assert first.picture() == first.picture()  # equal bytes
    assert seen == ["entropy: one", "entropy: two"]
    order = sorted(("one", "two"), key=lambda label: first.data[label]["mean"][0])
    assert first.findings[0].index(order[0]) < first.findings[0].index(order[1])


def test_images_are_spread_over_the_split() -> None:
    assert spread(5, 9) == [0, 1, 2, 3, 4]
    assert spread(10, 3) == [0, 3, 6]


def test_a_budget_without_sensitivity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = trained(tmp_path)
    given = ["inspect", place, "--out", str(tmp_path / "out"), "--images", "2", "--what", "parameters"]
    assert run([*given, "--budget-bytes", "1e4"]) == 0
    assert "--budget-bytes and --budget-ops are for sensitivity" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("kept", "said", "known"),
    [
        (
            '{"epoch": 1, "flipped": 0.25, "dead": 0}\n{"epoch": 2, "fli',
            "line 2, the last one, is not whole",
            1,
        ),
        ('{"epoch": 1, "fli\n{"epoch": 2, "flipped": 0.5, "dead": 0}\n', "line 1 of 2 is damaged", 0),
        (None, "there is no such log", 0),
    ],
)
def test_flips_by_a_damaged_log(
    kept: str | None, said: str, known: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = trained(tmp_path)
    log = Path(place) / "log.jsonl"
    log.unlink() if kept is None else log.write_text(kept)
    given = ["inspect", place, "--out", str(tmp_path / "out"), "--images", "2", "--what", "weights", "--json"]
    capsys.readouterr()
    assert run(given) == 0
    (section,) = json.loads(capsys.readouterr().out)["sections"]
    assert section["data"]["bidense"]["flipped_in_epoch"] == [0.25] * known
    assert any(said in text for text in section["findings"])
    assert any("flips of each epoch are not known" in text for text in section["findings"]) == (known == 0)


def test_the_log_of_an_entry_of_the_zoo_is_not_that_of_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = trained(tmp_path)
    monkeypatch.setattr("binarize.files.zoo.folder", lambda: tmp_path / "zoo")
    assert run(["zoo", "add", place, "--name", "mine"]) == 0
    (tmp_path / "log.jsonl").write_text('{"epoch": 7, "flipped": 0.5}\n')
    monkeypatch.chdir(tmp_path)
    paths = [Path("zoo:mine")]
    (subject,) = load_subjects(paths, ["mine"], load_networks(paths), images=2)
    assert [line["epoch"] for line in subject.history().lines] in ([], [1])


@pytest.mark.parametrize(
    "command", ["inspect", "report", "compare", "evaluate", "predict", "deploy", "verify"]
)
def test_a_training_that_is_not_finished(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "begun"
    folder.mkdir()
    for name in ("log.jsonl", "state.safetensors"):
        (folder / name).write_bytes(b"{}\n")
    image = tmp_path / "image.png"
    Image.new("RGB", (8, 8)).save(image)
    monkeypatch.chdir(tmp_path)
    assert run([command, str(folder), *([str(image)] if command == "predict" else [])]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "is not finished" in error
    assert f"--out {folder} --resume" in error
