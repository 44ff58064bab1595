"""Classification: figures, loss, mixing; a training, resumed, evaluated, predicted, packed, compared."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import class_data
import numpy as np
import pytest
import torch
import yaml
from sklearn.metrics import accuracy_score, confusion_matrix, top_k_accuracy_score
from torch import Tensor, nn
from torch.nn import functional as F

import binarize
from binarize import recipes
from binarize.cli import run
from binarize.data.classes import Classes
from binarize.errors import ConfigError
from binarize.files import container
from binarize.files.load import read_preprocessing
from binarize.recipes.schema import Training
from binarize.training import build, confusion, saved
from binarize.training.evaluation import predict
from binarize.training.loop import StoppedError, train
from binarize.training.losses import ClassificationLoss
from binarize.training.metrics import ClassificationMetric
from binarize.training.mixing import create_mixing


def names(n: int) -> Classes:
    return Classes(names=tuple(f"c{i}" for i in range(n)))


def test_figures_are_those_of_sklearn() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 8, generator=generator)
    target = torch.randint(0, 7, (200,), generator=generator)  # class 7 never occurs
    metric = ClassificationMetric(names(8))
    for part in range(0, 200, 50):
        metric.update(logits[part : part + 50], target[part : part + 50])
    found = metric.compute()
    predicted = logits.argmax(1).numpy()
    assert found["top1"] == pytest.approx(accuracy_score(target, predicted))
    top5 = top_k_accuracy_score(target, logits.numpy(), k=5, labels=range(8))
    assert found["top5"] == pytest.approx(top5)
    expected = confusion_matrix(target, predicted, labels=range(8))
    assert np.array_equal(confusion.matrix(found["confusion"], list(names(8).names)), expected)
    for i in range(7):
        assert found["class_accuracy"][f"c{i}"] == pytest.approx((predicted == i)[target.numpy() == i].mean())
    assert found["class_accuracy"]["c7"] is None
    assert found["absent"] == ["c7"]
    assert found["images"] == 200


def test_names_of_classes_are_drawn_as_they_are(tmp_path: Path) -> None:
    """Between two dollar signs matplotlib expects a formula."""
    confusion.draw_confusion({"$^$": {"b_c": 3}}, tmp_path / "c.png", ["$^$", "b_c"])
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_figures_of_few_classes_and_of_nothing() -> None:
    metric = ClassificationMetric(names(3))
    metric.update(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    assert metric.compute()["top1"] is None
    metric.update(torch.zeros(2, 3), torch.tensor([0, 2]))  # equal logits: the first class counts
    found = metric.compute()
    assert (found["top1"], found["top5"]) == (0.5, None)
    with pytest.raises(ConfigError, match=r"expected logits \(N, 3\)"):
        metric.update(torch.zeros(2, 4), torch.tensor([0, 2]))


def test_loss_against_its_formula() -> None:
    logits = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([0, 1, 2, 3, 3, 3])
    shares = torch.rand(6, 4, dtype=torch.float64).softmax(1)
    weights = torch.tensor([1.0, 2.0, 0.5, 0.25], dtype=torch.float64)
    for target, w, e in ((ids, None, 0.0), (ids, weights, 0.1), (shares, None, 0.2), (shares, weights, 0.0)):
        t = F.one_hot(ids, 4).double() if target is ids else target
        c = torch.ones(4, dtype=torch.float64) if w is None else w
        smooth = (1 - e) * t + e / 4
        log_p = logits - logits.logsumexp(1, keepdim=True)
        expected = -(c * smooth * log_p).sum() / (c * t).sum()
        loss = ClassificationLoss(e, None if w is None else w.float())
        found = loss(logits.float(), target if target is ids else target.float())
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    ClassificationLoss()(logits, ids).backward()
    expected = (logits.detach().softmax(1) - F.one_hot(ids, 4)) / 6
    assert logits.grad is not None
    assert torch.allclose(logits.grad, expected.double(), atol=1e-6)


def settings(**more: Any) -> Training:
    return Training(epochs=1, batch=8, lr=0.1, **more)


def test_mixing_depends_on_seed_and_step_only() -> None:
    images, ids = torch.rand(8, 3, 16, 16), torch.arange(8)
    mixing = create_mixing(settings(mixup=0.4, cutmix=1.0), 10)
    assert mixing is not None
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = mixing(images, ids, 5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again = create_mixing(settings(mixup=0.4, cutmix=1.0), 10)
    assert again is not None
    assert all(torch.equal(a, b) for a, b in zip(one, again(images, ids, 5), strict=True))
    assert not torch.equal(one[0], mixing(images, ids, 6)[0])
    other = create_mixing(settings(mixup=0.4, cutmix=1.0, seed=1), 10)
    assert other is not None
    assert not torch.equal(one[1], other(images, ids, 5)[1])
    assert create_mixing(settings(), 10) is None


def test_mixed_targets_are_the_shares_of_the_images() -> None:
    ids = torch.arange(8)
    images = F.one_hot(ids, 8)[:, :3].float()[..., None, None].expand(-1, -1, 16, 16).clone()
    for way in ({"mixup": 1.0}, {"cutmix": 1.0}):
        mixing = create_mixing(settings(**way), 8)
        assert mixing is not None
        for step in range(5):
            x, t = mixing(images, ids, step)
            assert torch.allclose(t.sum(1), torch.ones(8), atol=1e-6)
            assert torch.allclose(
                x.mean((2, 3)), t[:, :3], atol=1e-5
            )  # channel c is 1 in the images of class c


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_data.cifar_zips(tmp_path_factory.mktemp("cifar"), train=10, test=3)


@pytest.fixture(scope="module")
def trained(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two epochs with everything that is drawn."""
    out = tmp_path_factory.mktemp("run") / "run"
    train(recipe(root), out)
    return out


def recipe(root: Path, **training: Any) -> recipes.TrainingRecipe:
    drawn = {
        "mixup": 0.4,
        "cutmix": 1.0,
        "label_smoothing": 0.1,
        "schedule": {"name": "cosine", "per": "step"},
    }
    return recipes.validate(class_data.values(root, **{**drawn, **training}), "test")


def test_trains_and_writes_its_files(root: Path, trained: Path) -> None:
    lines = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert set(lines[-1]["val"]) == {"top1", "top5", "class_accuracy", "absent", "images"}
    assert lines[-1]["val"]["images"] == 10
    assert (trained / "confusion.png").read_bytes().startswith(b"\x89PNG")
    found, model, truth = saved.load_with_truth(trained)
    assert truth == Classes(names=class_data.TEN)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    images = read_preprocessing(trained / "model.safetensors")
    assert images is not None
    assert images.size == (32, 32)
    assert found.network.name == "resnet20-cifar"


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_resumes_bit_for_bit(root: Path, trained: Path, tmp_path: Path, stop: int) -> None:
    steps = 0

    def interrupt(event: Any) -> None:
        nonlocal steps
        steps += not event.figures
        if steps == stop:
            import signal

            steps += 1
            signal.raise_signal(signal.SIGINT)

    out = tmp_path / "run"
    with pytest.raises(StoppedError):
        train(recipe(root), out, report=interrupt)
    train(recipe(root), out, resume=True)
    for file in ("model.safetensors", "state.safetensors"):
        one, other = container.read(trained / file).tensors, container.read(out / file).tensors
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_optimizers_follow_torch(root: Path, optimizer: str) -> None:
    chosen = settings(optimizer=optimizer, weight_decay=0.1, nesterov=optimizer == "sgd")
    net, other = nn.Linear(3, 2), nn.Linear(3, 2)
    other.load_state_dict(net.state_dict())
    ours = build.optimizer(net, chosen, torch.device("cpu"))
    theirs: torch.optim.Optimizer
    if optimizer == "sgd":
        theirs = torch.optim.SGD(other.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=0.1)
    else:
        kind = torch.optim.Adam if optimizer == "adam" else torch.optim.AdamW
        theirs = kind(other.parameters(), 0.1, weight_decay=0.1)
    x = torch.rand(5, 3)
    for _ in range(3):
        for model, opt in ((net, ours), (other, theirs)):
            opt.zero_grad()
            model(x).square().sum().backward()
            opt.step()
    assert torch.allclose(net.weight, other.weight, atol=1e-6)
    assert not torch.equal(net.weight, nn.Linear(3, 2).weight)


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(list(arguments)) == 0
    return capsys.readouterr().out


def test_commands_on_a_run(
    root: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(command(capsys, "evaluate", str(trained), "--json"))
    assert found["images"] == 30
    assert sum(sum(row.values()) for row in found["confusion"].values()) == 30
    picture = tmp_path / "c.png"
    text = command(capsys, "evaluate", str(trained), "--confusion", str(picture), "--flip")
    assert "top1" in text
    assert "automobile" in text
    assert picture.is_file()
    assert run(["evaluate", str(trained), "--confusion", str(picture)]) == 2
    assert "--force" in capsys.readouterr().err
    images = class_data.folder(tmp_path / "images", {
        f"{i}/same.png": class_data.encoded(class_data.picture(i, 50)) for i in range(3)})  # fmt: skip
    pattern = str(images / "*" / "*.png")
    text = command(capsys, "predict", str(trained), pattern, "--out", str(tmp_path / "p"))
    assert "3 images" in text
    written = json.loads((tmp_path / "p" / "classes.json").read_text())
    out = ("--out", str(tmp_path / "p"), "--force", "--top", "10", "--json")
    assert len(json.loads(command(capsys, "predict", str(trained), pattern, *out))) == 3
    assert [c["class"] for c in written[0]["classes"]] == likeliest(trained, 50)[:5]
    packed = tmp_path / "packed.safetensors"
    command(capsys, "deploy", str(trained / "model.safetensors"), "--out", str(packed))
    figures = json.loads(command(capsys, "evaluate", str(packed), "--json"))
    assert figures["images"] == 30
    command(capsys, "predict", str(packed), pattern, "--out", str(tmp_path / "q"))
    binarize.load(packed)(torch.rand(1, 3, 32, 32))
    command(capsys, "verify", str(trained), pattern, "--exact-scales")
    assert "top1" in command(capsys, "verify", str(trained), "--count", "2")
    assert "top-1 %" in command(capsys, "compare", str(trained))
    assert "fc" in command(capsys, "summary", str(trained))


def likeliest(trained: Path, number: int) -> list[str]:
    """Classes of `picture(0, number)`, likeliest first, by the plain network."""
    from binarize.data.transforms import MEAN, STD

    model = binarize.load(trained / "model.safetensors")
    x = torch.from_numpy(class_data.picture(0, number)).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    with torch.no_grad():
        order = model(((x - mean) / std)[None])[0].argsort(descending=True)
    return [class_data.TEN[i] for i in order.tolist()]


def file_of(tmp_path: Path, values: dict[str, Any]) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(list(arguments)) == 2
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(("part", "message"), [
    ({"data": {"augmentation": {"size": [32, 32], "long_side": 40}}}, r"long_side is not for classification"),
    ({"data": {"evaluation": {"bottom": [2, 2]}}}, r"bottom is not for classification"),
    ({"network": {"options": {"num_classes": 7}}}, r"the network has 7 classes, the data set has 10"),
    ({"network": {"options": {"num_classes": 12}}}, r"the network has 12 classes, the data set has 10"),
    ({"network": {"name": "fcn32s:resnet18"}}, r"task"),
    ({"training": {"nesterov": True, "optimizer": "adam"}}, r"nesterov is for optimizer: sgd"),
    ({"training": {"schedule": {"name": "cosine", "warmup": 2}}}, r"leaves nothing of 2 epochs"),
    ({"data": {"augmentation": {"size": [32, 32], "pad": 4, "area": [0.5, 1]}}}, r"take one"),
])  # fmt: skip
def test_contradictions_before_training(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], part: dict[str, Any], message: str
) -> None:
    values = class_data.values(root)
    for key, inner in part.items():
        values[key] = {**values[key], **inner}
    text = refusal(capsys, "train", file_of(tmp_path, values), "--out", str(tmp_path / "run"))
    assert message in text
    assert not (tmp_path / "run").exists()


def test_settings_of_classification_are_refused_elsewhere(tmp_path: Path, capsys: Any) -> None:
    for setting, place in (
        ("data.augmentation.pad=4", "data.augmentation.pad"),
        ("training.mixup=0.2", "mixup"),
    ):
        text = refusal(
            capsys, "train", "camvid/convnext_atto-bnn", "--set", setting, "--out", str(tmp_path / "r")
        )
        assert place in text
        assert "not for segmentation" in text


def test_options_of_other_tasks(root: Path, trained: Path, tmp_path: Path, capsys: Any) -> None:
    image = tmp_path / "x.png"
    image.write_bytes(class_data.encoded(class_data.picture(0, 0)))
    assert "classifies whole images" in refusal(capsys, "predict", str(trained), str(image), "--overlay")
    out = ("--out", str(tmp_path / "p"))
    command(capsys, "predict", str(trained), str(image), *out)
    assert "--force" in refusal(capsys, "predict", str(trained), str(image), *out)


def test_other_classes_are_not_measured(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="class 1 is automobile there, car here"):
        saved.check_classes(trained, Classes(names=("airplane", "car", *class_data.TEN[2:])))
    saved.check_classes(trained, Classes(names=class_data.TEN))


def test_floor_and_check(root: Path, tmp_path: Path, capsys: Any) -> None:
    path = file_of(tmp_path, class_data.values(root))
    assert "0.100" in command(capsys, "data", "floor", path)
    text = command(capsys, "data", "check", path)
    assert "train: 90 images of 10 classes, 9 of each, 32x32" in text
    folder = tmp_path / "own"
    class_data.folder(folder / "train", {**class_data.images(("a", "b"), 3), "a/bad.png": b"x"})
    class_data.folder(folder / "test", class_data.images(("a", "b"), 2, (20, 30)))
    values = class_data.values(folder)
    values["data"] |= {"name": "image-folder", "val": None}
    text = refusal(capsys, "data", "check", file_of(tmp_path, values))
    assert "a/bad.png: not a readable image" in text


class Flipped(nn.Module):
    """Logits that depend on the left half of the image only."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[..., :4].mean((1, 2, 3)), x[..., 4:].mean((1, 2, 3)), x[:, 0, 0, 0]], 1)


def test_mean_over_mirror_images_keeps_the_order_of_classes() -> None:
    x = torch.rand(2, 3, 8, 8)
    model = Flipped()
    expected = ((model(x).softmax(1) + model(x.flip(-1)).softmax(1)) / 2).log()
    assert torch.allclose(predict(model, x, flip=True), expected, atol=1e-6)


def test_timm_classifier_gets_the_classes(root: Path, tmp_path: Path) -> None:
    values = class_data.values(root, epochs=1)
    values |= {"network": {"name": "timm:resnet10t"}, "method": {"name": "bnn"}}
    values["data"]["options"] = {"limit": 30}
    train(recipes.validate(values, "test"), tmp_path / "run")
    assert saved.load(tmp_path / "run")[1](torch.rand(1, 3, 32, 32)).shape == (1, 10)


def test_class_balance_counts_images(tmp_path: Path) -> None:
    from binarize.training.balance import class_weights

    files = class_data.images(("a", "b"), 2) | {f"b/x{i}.png": b"" for i in range(4)}
    class_data.folder(tmp_path / "train", files)
    found = class_weights(binarize.data.create("image-folder", "train", tmp_path), 1.0)
    assert torch.allclose(found, torch.tensor([2.0, 2 / 3]))


ZIPS = Path(os.environ.get("BINARIZE_DATA", "")) / "cifar10" / "train.zip"


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif(not ZIPS.is_file(), reason="BINARIZE_DATA names no folder with the zip files of cifar10")
def test_real_zips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limited = (
        "--set",
        "data.options.limit=640",
        "--set",
        "training.epochs=2",
        "--set",
        "training.compile=false",
    )
    command(capsys, "train", "cifar10/resnet20-bidense", "--out", str(tmp_path / "run"), *limited)
    first, last = (
        json.loads(line)["loss"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    )
    assert last < first
