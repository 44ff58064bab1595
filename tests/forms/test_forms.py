"""Networks in float32, int8 and at one bit: each form is measured itself, by one evaluation."""

from __future__ import annotations

import importlib
import io
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from class_data import cifar_zips
from PIL import Image

from binarize import files, forms, recipes
from binarize.bench import rivals
from binarize.errors import ConfigError
from binarize.forms.picture import spread
from binarize.forms.table import about, ordered
from binarize.recipes import TrainingRecipe
from binarize.training.build import dataset, network
from binarize.training.evaluation import evaluate
from binarize.training.metadata import file_metadata

measuring = importlib.import_module("binarize.forms.measure")  # the package has a function of this name
MISSING = rivals.why_not("onnxruntime-int8")
SETTINGS = ["data.options.size=[32,32]", "data.augmentation.size=[32,32]"]


@pytest.fixture(autouse=True)
def _threads() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def written(folder: Path, name: str, length: int = 6) -> tuple[Path, TrainingRecipe, torch.nn.Module]:
    """A run's folder with an untrained network whose norms have seen images, without a log."""
    recipe = recipes.load(f"shapes/{name}", [*SETTINGS, f"data.options.length={length}"])
    samples = dataset(recipe, recipe.data.test)
    model = network(recipe, samples.truth).train()
    with torch.no_grad():
        for _ in range(5):
            model(torch.stack([samples[i].image for i in range(length)]))
    model.eval()
    path = folder / name / "model.safetensors"
    path.parent.mkdir(parents=True)
    files.save(model, path, entries=file_metadata(recipe, samples.truth))
    return path.parent, recipe, model


@pytest.mark.skipif(bool(MISSING), reason=MISSING or "installed")
def test_each_form_is_measured_itself(tmp_path: Path) -> None:
    float_run, recipe, plain = written(tmp_path, "tiny-float")
    binary_run, _, binary = written(tmp_path, "tiny-bidense")
    sources, left_out = forms.find([str(float_run), str(binary_run / "model.safetensors")])
    assert not left_out
    told: list[str] = []
    document = forms.measure(
        sources, forms.Settings(images=3, rounds=1), tell=told.append, before_times=lambda: told.append("now")
    )
    group = document["data"]["shapes test"]
    rows = {row["form"]: row for row in group["rows"]}
    assert list(rows) == [forms.FLOAT, forms.INT8, forms.ONE_BIT]
    assert [row["place"] for row in group["rows"]] == ["tiny-float", "tiny-float", "tiny-bidense"]
    assert (group["task"], group["images"], group["size"], group["threads"]) == (
        "segmentation",
        6,
        [32, 32],
        1,
    )
    samples = dataset(recipe, recipe.data.test)
    for kind, model, tolerance in ((forms.FLOAT, plain, 1e-4), (forms.ONE_BIT, binary, 2e-2)):
        wanted = evaluate(model, samples, batch=4)
        for name, value in rows[kind]["figures"].items():
            assert value == pytest.approx(wanted[name], abs=tolerance), (kind, name)
    assert rows[forms.INT8]["figures"].keys() == {"miou", "pixel_accuracy"}
    assert rows[forms.INT8]["bytes"] < rows[forms.FLOAT]["bytes"]
    assert rows[forms.ONE_BIT]["bytes"] < rows[forms.FLOAT]["bytes"] / 4
    assert all(row["ms"] > 0 and row["passes"] for row in group["rows"])
    assert told.index("now") == len(told) - 2  # every evaluation came before, the times after it


@pytest.mark.skipif(bool(MISSING), reason=MISSING or "installed")
def test_whole_images(tmp_path: Path) -> None:
    root = cifar_zips(tmp_path / "data")
    recipe = recipes.load("cifar10/resnet20-float", [f"data.root={root}", "data.train=trainval"])
    samples = dataset(recipe, recipe.data.test)
    model = network(recipe, samples.truth).eval()
    run = tmp_path / "run" / "model.safetensors"
    run.parent.mkdir()
    files.save(model, run, entries=file_metadata(recipe, samples.truth))
    found = forms.measure(forms.find([str(run)])[0], forms.Settings(images=4, rounds=1))
    rows = found["data"]["cifar10 test"]["rows"]
    wanted = evaluate(model, samples, batch=8)
    assert rows[0]["figures"] == pytest.approx({"top1": wanted["top1"], "top5": wanted["top5"]})
    assert rows[1]["figures"].keys() == {"top1", "top5"}
    assert "| top-1 % ↑ | top-5 % ↑ |" in forms.markdown(found)


@pytest.mark.skipif(bool(MISSING), reason=MISSING or "installed")
def test_int8_is_calibrated_on_training_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the network is quantized as it was trained, with its own norms."""
    run, recipe, plain = written(tmp_path, "tiny-float", length=12)
    seen: dict[str, Any] = {}
    original = rivals.program

    def program(name: str, given: Any) -> Any:
        seen[name] = given
        return original(name, given)

    monkeypatch.setattr(rivals, "program", program)
    sources, _ = forms.find([str(run)])
    settings = forms.Settings(runners=("onnxruntime",), images=4, rounds=1, accuracy=False)
    forms.measure(sources, settings)
    training = dataset(recipe, recipe.data.train)
    images = [training[i].image[None] for i in (0, 3, 6, 9)]
    given = seen["onnxruntime"]
    assert len(given.images) == 4
    assert all(torch.equal(a, b) for a, b in zip(given.images, images, strict=True))
    for name, value in plain.state_dict().items():
        assert torch.equal(given.model.model.state_dict()[name], value), name


def test_packed_networks_are_timed_as_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _, _ = written(tmp_path, "tiny-bidense")
    timed: list[Any] = []
    original = measuring.bench

    def bench(variants: Any, *args: Any, **kwargs: Any) -> Any:
        timed.append(variants[0].model.model)
        return original(variants, *args, **kwargs)

    monkeypatch.setattr(measuring, "bench", bench)
    forms.measure(forms.find([str(run / "model.safetensors")])[0], forms.Settings(rounds=1))
    (model,) = timed
    # the evaluation before leaves no module in training mode, in which no program runs
    assert not any(module.training for module in model.modules())
    assert model.binarize_programs.programs()


def test_a_packed_file_is_measured_as_it_is(tmp_path: Path) -> None:
    run, _, binary = written(tmp_path, "tiny-bidense")
    entries = files.container.read_metadata(run / "model.safetensors")
    kept = {name: text for name, text in entries.items() if name != files.ENTRY}
    packed = files.save(binary, tmp_path / "packed.safetensors", packed=True, entries=kept)
    sources, _ = forms.find([str(packed)])
    document = forms.measure(sources, forms.Settings(runners=(), rounds=1, accuracy=False))
    (row,) = document["data"]["shapes test"]["rows"]
    assert row["bytes"] == packed.stat().st_size
    assert row["place"] == "packed.safetensors"
    assert "figures" not in row


def test_an_untrained_network_beside_known_figures() -> None:
    sources, _ = forms.find(["shapes/tiny-bidense=miou:0.5,pixel_accuracy:0.75"])
    document = forms.measure(sources, forms.Settings(runners=(), rounds=1))
    (row,) = document["data"]["shapes test"]["rows"]
    assert row["figures"] == {"miou": 0.5, "pixel_accuracy": 0.75}
    assert row["figures_given"] is True
    assert "50.00" in forms.text(document)


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (["zoo:no-such-*"], "matches no network of the zoo"),
        (["runs/nothing"], "no such network; expected a run"),
        (["shapes/tiny-float=mIoU:0.5"], r"expected RECIPE=FIGURE:VALUE"),
        (["shapes/tiny-float=miou:high"], r"expected RECIPE=FIGURE:VALUE"),
    ],
)
def test_what_cannot_be_found(places: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        forms.find(places)


def test_networks_that_do_not_belong_together(tmp_path: Path) -> None:
    run, _, _ = written(tmp_path / "a", "tiny-bidense")
    other, _, _ = written(tmp_path / "b", "tiny-bidense", length=5)
    settings = forms.Settings(runners=(), accuracy=False)
    with pytest.raises(ConfigError, match="evaluated on other images"):
        forms.measure(forms.find([str(run), str(other)])[0], settings)
    with pytest.raises(ConfigError, match="named twice"):
        forms.measure(forms.find([str(run), str(run)])[0], settings)
    with pytest.raises(ConfigError, match="no runner 'tflite'"):
        forms.measure(forms.find([str(run)])[0], forms.Settings(runners=("tflite",)))


def test_zoo_patterns_and_unfinished_runs(tmp_path: Path) -> None:
    sources, _ = forms.find(["zoo:camvid-bi*"])
    assert [s.place for s in sources][:2] == ["zoo:camvid-bidense", "zoo:camvid-bidense-layer"]
    run, recipe, _ = written(tmp_path, "tiny-bidense")
    (run / "log.jsonl").write_text("{}\n", encoding="utf-8")
    sources, left_out = forms.find([str(run)])
    assert not sources
    assert left_out == [f"{run}: left out, 1 of {recipe.training.epochs} epochs are done."]


def document(rows: list[dict[str, Any]], task: str = "segmentation") -> dict[str, Any]:
    data = "nyuv2 test" if task == "depth" else "camvid test"
    group: dict[str, Any] = {"task": task, "images": 3, "size": [4, 8], "threads": 1}
    group["machine"] = {"cpu": "a processor", "kernels": "avx512", "torch": "2"}
    return {"data": {data: {**group, "packages": {"binarize": "1"}, "rows": rows}}}


def row(
    network: str, form: str, figures: dict[str, float], ms: float, size: int = 1_000_000
) -> dict[str, Any]:
    made = {"network": network, "place": network, "form": form, "runner": "r", "figures": figures, "ms": ms}
    return {**made, "bytes": size, "timed": "now"}


def test_new_rows_join_those_of_earlier_runs() -> None:
    old = document([row("a", "one bit", {"miou": 0.1}, 1.0), row("b", "float32", {"miou": 0.2}, 2.0)])
    later = row("a", "one bit", {"miou": 0.3}, 9.0) | {"timed": "later"}
    del later["figures"]
    joined = forms.merged(old, document([later]))
    rows = ordered(joined["data"]["camvid test"])
    assert [(r["network"], r["ms"], r["figures"]["miou"]) for r in rows] == [("b", 2.0, 0.2), ("a", 9.0, 0.1)]
    assert "not all rows were timed in turn" in about("camvid test", joined["data"]["camvid test"])
    assert "not all rows" not in about("camvid test", old["data"]["camvid test"])
    both = forms.merged(old, document([], "depth"))
    assert list(both["data"]) == ["camvid test", "nyuv2 test"]


def test_table() -> None:
    rows = [
        row("bnn", "one bit", {"abs_rel": 0.3456, "delta1": 0.5}, 1.234),
        row("float", "float32", {"abs_rel": 0.2}, 12.34, 22_140_000),
    ]
    lines = forms.markdown(document(rows, "depth")).splitlines()
    assert lines[0].startswith("nyuv2 test, 3 images; one image of 4x8 on 1 thread, a processor (avx512)")
    assert lines[2] == "| network | form | runs on | AbsRel ↓ | delta1 ↑ | file | ms |"
    assert lines[4] == "| float | float32 | r | 0.200 | - | 22.1 MB | 12.3 |"
    assert lines[5] == "| bnn | one bit | r | 0.346 | 0.500 | 1.00 MB | 1.23 |"


def test_picture() -> None:
    rows = [
        row("float", "float32", {"abs_rel": 0.2, "delta1": 0.5}, 8.0, 20_000_000),
        row("bnn", "one bit", {"abs_rel": 0.3, "delta1": 0.4}, 2.0),
        row("not timed", "one bit", {"abs_rel": 0.3}, 2.0),
    ]
    del rows[2]["ms"]
    made = Image.open(io.BytesIO(forms.picture(document(rows, "depth"))))
    assert made.format == "PNG"
    assert made.width > made.height > 300
    for row_ in rows:
        row_.pop("ms", None)
    with pytest.raises(ConfigError, match="no row has both"):
        forms.picture(document(rows, "depth"))


def test_labels_are_apart() -> None:
    values = [0.0, 0.01, 0.02, 0.5, 0.97, 0.98]
    found = spread(values, 0.06)
    assert found == sorted(found)
    assert all(b - a >= 0.06 - 1e-9 for a, b in itertools.pairwise(found))
    assert max(found) <= 0.97 + 1e-9
    assert found[3] == 0.5
    many = spread([0.5] * 40, 0.06)
    assert all(b > a for a, b in itertools.pairwise(many))
    assert min(many) >= -0.5
