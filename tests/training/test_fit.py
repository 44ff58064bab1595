"""Training, evaluation and prediction in Python: networks and data of the caller's, callbacks, trackers."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from small_net import Small, values
from torch import nn
from torch.utils.data import Dataset, IterableDataset

import binarize
from binarize import recipes, training
from binarize.cli import run as binarize_command
from binarize.data import Classes, Depth, Labels, create
from binarize.errors import BinarizeWarning, ConfigError, DataError
from binarize.files import container, read_preprocessing
from binarize.training import Callback, Event, StopTraining, evaluate, fit, saved, trackers
from binarize.training.folder import STATE
from binarize.training.loop import train
from binarize.training.pictures import predict_image

TWO = Labels(names=("dark", "bright"), palette=((0, 0, 0), (255, 255, 255)))


class Bright(Dataset[Any]):
    """Pictures of two halves, and which pixels are bright; turned around at random."""

    def __init__(self, length: int = 12, kind: str = "array", size: int = 32) -> None:
        self.length, self.kind, self.size = length, kind, size

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        numbers = np.random.default_rng(index)
        image = numbers.integers(0, 100, (self.size, self.size, 3), dtype=np.uint8)
        image[:, numbers.integers(4, self.size - 4) :] += 150
        target = (image.mean(2) > 125).astype(np.uint8)
        if torch.rand(()) < 0.5 and np.random.rand() < 0.5:  # noqa: NPY002
            image, target = image[::-1].copy(), target[::-1].copy()
        if self.kind == "pil":
            return Image.fromarray(image), Image.fromarray(target)
        if self.kind == "floats":
            return torch.from_numpy(image).permute(2, 0, 1) / 255, torch.from_numpy(target)
        if self.kind == "depth":
            return image, target.astype(np.float32) * 3 + 1
        if self.kind == "class":
            return image, int(target.mean() > 0.5)
        return image, target


def quick(network: nn.Module, data: Any, **given: Any) -> training.Result:
    return fit(network, data, **{"epochs": 2, "batch": 4, "lr": 3e-3, "truth": TWO, **given})


def state(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def equal(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_network_learns_and_the_callers_own_stays() -> None:
    network = Small(2, None)
    before, numbers = state(network), torch.random.get_rng_state()
    said: list[str] = []
    made = quick(network, Bright(), val=Bright(6), epochs=8, method="bidense", tell=said.append)
    assert equal(before, state(network))
    assert torch.equal(numbers, torch.random.get_rng_state())
    assert len(made.history) == 8
    assert made.history[-1]["val"]["miou"] > 0.7
    assert made.best is not None
    assert made.best[2] == max(line["val"]["miou"] for line in made.history)
    assert (made.out, made.file, made.best_file, made.stopped) == (None, None, None, "")
    assert sum(isinstance(m, binarize.layers.BinaryLayer) for m in made.network.modules()) == 2
    assert not made.network.training
    assert evaluate(made.network, Bright(6), truth=TWO)["miou"] == made.history[-1]["val"]["miou"]
    assert "weights of the given network" in said[4]
    assert said[-1].startswith("epoch 8/8  loss ")


def test_a_network_that_was_converted_before_is_not_called_float() -> None:
    said: list[str] = []
    network = binarize.apply(Small(2, None), "bidense", example_inputs=torch.rand(1, 3, 32, 32))
    quick(network, Bright(), epochs=1, tell=said.append)
    line = next(line for line in said if line.startswith("network"))
    assert "bidense, converted before: " in line
    assert "float" not in line


@pytest.mark.parametrize("kind", ["pil", "floats"])
def test_images_of_all_kinds_are_the_same_to_the_network(kind: str) -> None:
    network = Small(2, None)
    images = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
    one = quick(network, Bright(), preprocessing=images)
    two = quick(network, Bright(kind=kind), preprocessing=images)
    assert equal(state(one.network), state(two.network))


def test_depth_and_classification() -> None:
    depth = quick(
        Small(1, 5.0), Bright(kind="depth"), val=Bright(4, "depth"), truth=Depth(scale=1, most=5.0), epochs=1
    )
    assert depth.history[0]["val"]["abs_rel"] > 0
    classifier = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    classes = quick(
        classifier,
        Bright(kind="class"),
        val=Bright(4, "class"),
        truth=Classes(names=("dark", "bright")),
        epochs=1,
    )
    assert 0 <= classes.history[0]["val"]["top1"] <= 1
    seen = binarize.predict(classes.network, Bright()[0][0])
    assert seen.task == "classification"
    assert sum(share for _, share in seen.top()) == pytest.approx(1)
    assert seen.top(1)[0][0] == seen.names[int(seen.labels)]  # type: ignore[arg-type]


def test_it_is_the_loop_of_recipes() -> None:
    # the same network, data and settings by a recipe give the same bits
    chosen = recipes.validate({**values(epochs=2), "method": None}, "a test")
    from binarize.training.build import dataset, network

    data, val = dataset(chosen, "train", training=True), dataset(chosen, "val")
    given = network(chosen, data.truth)
    made = fit(given, data, val=val, epochs=2, batch=8, lr=3e-3)
    expected: list[Any] = []

    class Keep(Callback):
        def on_epoch(self, figures: Mapping[str, Any]) -> None:
            expected.append(figures)

    with tempfile.TemporaryDirectory() as folder:
        train(chosen, Path(folder), callbacks=[Keep()])
        assert equal(load_file(Path(folder) / "model.safetensors"), state(made.network))
    assert [line["loss"] for line in made.history] == [line["loss"] for line in expected]


def test_files_of_fit_are_those_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}
    network = Small(2, None)
    made = quick(network, Bright(), val=Bright(4), method="bnn", out=tmp_path / "run", preprocessing=images)
    assert made.file is not None
    known = read_preprocessing(made.file)
    assert known is not None
    assert known.mean == (0.5, 0.4, 0.3)
    again = binarize.load(made.file, network)
    assert equal(state(again), state(made.network))
    assert made.best_file == tmp_path / "run" / "best.safetensors"
    packed = binarize.save(again, tmp_path / "packed.safetensors", packed=True)
    image = Bright()[0][0]
    one, two = (binarize.predict(m, image) for m in (made.network, binarize.load(packed, network)))
    assert one.names == two.names == ("dark", "bright")
    assert np.array_equal(one.labels, two.labels)  # type: ignore[arg-type]
    three = binarize.predict(tmp_path / "run", image, network=network)
    assert np.array_equal(one.output, three.output)
    (tmp_path / "nets.py").write_text(
        "from small_net import Small\n\ndef net():\n    return Small(2, None)\n"
    )
    Image.fromarray(image).save(tmp_path / "x.png")
    own = ["--model", f"{tmp_path / 'nets.py'}:net"]
    out = ["--out", str(tmp_path / "made")]
    assert binarize_command(["predict", str(tmp_path / "run"), str(tmp_path / "x.png"), *own, *out]) == 0
    with Image.open(tmp_path / "made" / "x.png") as picture:
        assert np.array_equal(np.asarray(picture), one.labels)
    assert binarize_command(["evaluate", str(tmp_path / "run"), *own]) == 2
    assert "trained in Python on data that no recipe names" in " ".join(capsys.readouterr().err.split())


def test_a_stopped_fit_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    network = Small(2, None)
    whole = quick(network, Bright(), epochs=3, method="bidense")

    class Stop(Callback):
        def on_step(self, event: Event) -> None:
            if (event.epoch, event.step) == (1, 2):
                raise StopTraining("enough")

    part = quick(network, Bright(), epochs=3, method="bidense", out=tmp_path, callbacks=[Stop()])
    assert part.stopped == "enough"
    assert len(part.history) == 1
    rest = quick(network, Bright(), epochs=3, method="bidense", out=tmp_path, resume=True)
    assert equal(state(whole.network), state(rest.network))
    with pytest.raises(ConfigError, match="of another recipe: method"):
        quick(network, Bright(), epochs=3, method="bnn", out=tmp_path, resume=True)


def test_the_best_network_comes_back(tmp_path: Path) -> None:
    made = quick(Small(2, None), Bright(), val=Bright(6), epochs=4, lr=0.1, keep="best", out=tmp_path)
    assert made.best is not None
    assert evaluate(made.network, Bright(6), truth=TWO)["miou"] == made.best[2]


class Told(Callback):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_start(self, start: training.Start) -> None:
        assert start.epochs == 2
        assert start.recipe["training"]["epochs"] == 2
        self.heard.append(f"start {start.step}")

    def on_step(self, event: Event) -> None:
        assert not event.figures
        self.heard.append(f"step {event.epoch} {event.step}")

    def on_evaluate(self, epoch: int, figures: Mapping[str, Any]) -> None:
        assert figures["val"]["miou"] is not None
        self.heard.append(f"evaluate {epoch}")

    def on_epoch(self, figures: Mapping[str, Any]) -> None:
        self.heard.append(f"epoch {figures['epoch']}")

    def on_end(self, end: training.End) -> None:
        self.heard.append(f"end {len(end.history)} {end.stopped}")


def test_what_callbacks_are_told_and_in_which_order(tmp_path: Path) -> None:
    told = Told()

    class OnlyEpochs:  # it need not be a Callback
        def on_epoch(self, figures: Mapping[str, Any]) -> None:
            assert (tmp_path / STATE).is_file()
            if figures["epoch"] == 1:
                raise StopTraining

    chosen = recipes.validate(values(epochs=2), "a test")
    train(chosen, tmp_path, callbacks=[told, OnlyEpochs()])
    steps = [f"step 0 {i}" for i in (1, 2, 3)]
    assert told.heard == ["start 0", *steps, "evaluate 1", "epoch 1", "end 1 OnlyEpochs ended it"]
    again = Told()
    assert len(train(chosen, tmp_path, resume=True, callbacks=[again])) == 2
    assert again.heard[0] == "start 3"
    assert again.heard[-1] == "end 2 "


@pytest.mark.parametrize("method", ["on_start", "on_step", "on_evaluate", "on_epoch"])
def test_an_exception_in_a_callback_leaves_a_run_that_goes_on(method: str, tmp_path: Path) -> None:
    chosen = recipes.validate(values(epochs=2), "a test")
    train(chosen, tmp_path / "whole")
    breaking = type("Breaking", (), {method: lambda self, *given: [][0]})()
    with pytest.raises(IndexError):
        train(chosen, tmp_path / "parts", callbacks=[breaking])
    train(chosen, tmp_path / "parts", resume=True)
    one, two = (load_file(tmp_path / name / STATE) for name in ("whole", "parts"))
    assert equal(one, two)


ZEROS = torch.zeros(3, 8, 8)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"truth": None}, ConfigError, "nothing says what its targets mean"),
        ({"data": iter([])}, ConfigError, "expected an object with a length"),
        ({"data": []}, DataError, "there is no sample"),
        ({"data": [(np.zeros((8, 8), np.float32), np.zeros((8, 8)))]}, DataError, "expected a PIL image"),
        ({"data": [ZEROS]}, DataError, "expected a pair"),
        ({"data": [(ZEROS, torch.full((8, 8), 7))]}, DataError, "class id 7; expected 0 to 1, or"),
        ({"data": [(ZEROS, torch.zeros(4, 4))]}, DataError, "a target of floats"),
        ({"data": [(ZEROS, torch.zeros(4, 4, dtype=torch.long))]}, DataError, "its target is of 4x4"),
        (
            {"data": [(torch.zeros(3, s, s), torch.zeros(s, s, dtype=torch.long)) for s in (32, 32, 16, 32)]},
            DataError,
            "all have to be of one size",
        ),
        ({"data": [(ZEROS, torch.full((8, 8), 255))] * 4}, DataError, "not one pixel has a truth"),
        ({"network": nn.Conv2d(3, 1, 1)}, ConfigError, "the network has 1 classes, the data set has 2"),
        ({"network": nn.Conv2d(4, 2, 1)}, ConfigError, r"fails on an image \(3, 32, 32\)"),
        ({"resume": True}, ConfigError, "give out="),
        ({"policy": binarize.Policy()}, ConfigError, "give method="),
        ({"schedule": "linear"}, ConfigError, "training.schedule.name"),
        ({"ema_decay": 0.9}, ConfigError, "no such setting"),
        ({"start_from": "x"}, ConfigError, "load the weights into the network"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained(given: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"network": Small(2, None), "data": Bright(4), **given}
    with pytest.raises(error, match=message):
        quick(**arguments)


def test_an_iterable_data_set_is_refused() -> None:
    class Endless(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(())

    with pytest.raises(ConfigError, match="IterableDataset"):
        quick(Small(2, None), Endless())


@pytest.mark.parametrize("task", ["segmentation", "depth"])
def test_predict_sees_what_the_command_sees(task: str, tmp_path: Path) -> None:
    given = {**values(epochs=1)}
    given["data"]["options"]["task"] = task
    train(recipes.validate(given, "a test"), tmp_path / "run")
    picture = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "x.png")
    out = ["--out", str(tmp_path / "made")]
    assert binarize_command(["predict", str(tmp_path / "run"), str(tmp_path / "x.png"), *out]) == 0
    seen = binarize.predict(tmp_path / "run", tmp_path / "x.png")
    with Image.open(tmp_path / "made" / "x.png") as made:
        found = np.asarray(made)
    assert seen.task == task
    if task == "depth":
        assert seen.depth is not None
        assert np.array_equal(np.round(seen.depth.astype(np.float64) * 1000).astype(found.dtype), found)
        assert seen.labels is None
    else:
        assert seen.labels is not None
        assert seen.probabilities is not None
        assert np.array_equal(seen.labels, found)
        assert seen.names == create("shapes", "val").truth.names
        assert np.allclose(seen.probabilities.sum(0), 1, atol=1e-5)
        assert np.array_equal(seen.probabilities.argmax(0), seen.labels)
    assert seen.picture().size == (50, 40)
    with pytest.raises(ConfigError, match="not of a whole image"):
        seen.top()
    network = saved.load(tmp_path / "run")[1]
    for image in (picture, Image.fromarray(picture), torch.from_numpy(picture).permute(2, 0, 1)):
        assert np.array_equal(binarize.predict(network, image).output, seen.output)


def test_a_classifier_of_timm_is_predicted_as_timm_does() -> None:
    import timm
    from timm.data import create_transform, resolve_data_config  # type: ignore[attr-defined]

    model = timm.create_model("resnet10t", num_classes=1000).eval()
    picture = np.random.default_rng(0).integers(0, 255, (200, 260, 3), dtype=np.uint8)
    seen = binarize.predict(model, picture)
    transform: Any = create_transform(**resolve_data_config({}, model=model))
    with torch.no_grad():
        expected = model(transform(Image.fromarray(picture))[None])[0].softmax(0).numpy()
    assert seen.task == ""
    assert seen.probabilities is not None
    # timm resizes PIL images, which rounds to whole numbers
    assert np.abs(seen.probabilities - expected).max() < 1e-4
    assert seen.top(1)[0][0] == str(expected.argmax())


def test_what_cannot_be_predicted(tmp_path: Path) -> None:
    network = nn.Conv2d(3, 2, 1)
    with pytest.raises(ConfigError, match="nothing says how images are prepared"):
        binarize.predict(network, np.zeros((4, 4, 3), np.uint8))
    x = torch.rand(3, 4, 6)
    assert np.allclose(binarize.predict(network, x).output, network(x[None])[0].detach().numpy())
    with pytest.raises(ConfigError, match="expected one image"):
        binarize.predict(network, torch.rand(2, 3, 4, 4))
    with pytest.raises(ConfigError, match=r"x\.safetensors"):
        binarize.predict(tmp_path / "x.safetensors", x)
    network.binarize_preprocessing = {"mean": [0, 0, 0], "std": [1, 1, 1]}  # type: ignore[assignment]
    with pytest.raises(DataError, match=r"x\.png"):
        binarize.predict(network, tmp_path / "x.png")


def test_predict_image_uses_the_mean_and_std_of_the_network() -> None:
    from binarize.recipes.schema import Evaluation

    network = nn.Conv2d(3, 2, 1)
    network.binarize_preprocessing = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5]}  # type: ignore[assignment]
    image = torch.randint(0, 256, (3, 6, 6), dtype=torch.uint8)
    x = (image.float() / 255 - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / 0.5
    assert torch.equal(predict_image(network, image, Evaluation(), TWO), network(x[None])[0].argmax(0))


def test_trackers_that_are_not_there(tmp_path: Path) -> None:
    missing = next((name for name in ("aim", "clearml", "swanlab") if not trackers._installed(name)), None)
    if missing is None:
        pytest.skip("all trackers are installed")
    for name, message in (
        (missing, f"{missing} is not installed: pip install"),
        ("tensorbord", "did you mean"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(recipes.validate(values(trackers=[name]), "a test"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_trackers_leave_no_files(tmp_path: Path) -> None:
    train(recipes.validate(values(epochs=1, trackers=[]), "a test"), tmp_path)
    assert not list(tmp_path.glob("events*"))


class Broken:
    """A tracker that starts, or logs, not at all."""

    requires_logging_directory = False

    def __init__(self, project: str) -> None:
        if project != "binarize":
            raise AssertionError

    def start(self) -> None: ...

    def log(self, values: dict[str, float], step: int) -> None:
        raise ConnectionError("the server is away\nand more")

    def finish(self) -> None: ...


def test_a_tracker_that_fails_ends_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(trackers.LOGGER_TYPE_TO_CLASS, "json", Broken)  # the module is always there
    with pytest.warns(BinarizeWarning, match=r"json fails, .* without it: the server is away$"):
        train(recipes.validate(values(epochs=2, trackers=["json"]), "a test"), tmp_path / "run")
    assert len((tmp_path / "run/log.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nothing://here")
    chosen = recipes.validate(values(epochs=2, trackers=["mlflow", "tensorboard"]), "a test")
    with pytest.raises(ConfigError, match=r"mlflow cannot write its runs: .*Set MLFLOW_TRACKING_URI"):
        train(chosen, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # later versions ask for it
    train(chosen, tmp_path / "run")
    (figures,) = (tmp_path / "mlruns").glob("*/*/metrics/val/miou")
    logged = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [float(line.split()[1]) for line in figures.read_text().splitlines()] == pytest.approx(
        [line["val"]["miou"] for line in logged]
    )
    folder = figures.parents[2]
    assert (folder / "params/training.lr").read_text() == str(chosen.training.lr)
    assert (folder / "tags/mlflow.runName").read_text() == "run"
    assert list((tmp_path / "run").glob("events*"))


@pytest.mark.slow
def test_weights_and_biases_without_its_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    train(recipes.validate(values(epochs=1, trackers=["wandb"]), "a test"), tmp_path)
    assert list(tmp_path.glob("wandb/offline-run-*"))


@pytest.mark.filterwarnings("ignore")  # of the exporter's own packages
@pytest.mark.slow
def test_onnx_models_say_how_images_are_prepared_and_what_classes_mean(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    onnx = pytest.importorskip("onnx")
    from binarize.preprocessing import ENTRY, TRUTH_ENTRY
    from binarize.runtime import to_onnx

    train(recipes.validate(values(epochs=1), "a test"), tmp_path / "run")
    out = tmp_path / "x.onnx"
    assert binarize_command(["export", str(tmp_path / "run"), "--onnx", str(out)]) == 0
    network = saved.load(tmp_path / "run")[1]
    for proto in (onnx.load(out), onnx.load_from_string(to_onnx(binarize.deploy(network), (32, 32)))):
        entries = {entry.key: entry.value for entry in proto.metadata_props}
        images = json.loads(entries[ENTRY])
        assert images["mean"] == [0.485, 0.456, 0.406]
        assert images["std"] == [0.229, 0.224, 0.225]
        assert images["size"] == [32, 32]
        truth = json.loads(entries[TRUTH_ENTRY])
        assert tuple(truth["names"]) == create("shapes", "val").truth.names
        assert (
            entries[TRUTH_ENTRY] == container.read_metadata(tmp_path / "run/model.safetensors")[TRUTH_ENTRY]
        )
