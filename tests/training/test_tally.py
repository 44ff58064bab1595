"""What an epoch, or an evaluation, has to have in it."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_net import Small, values

from binarize import recipes
from binarize.data import create
from binarize.data.dataset import Depth
from binarize.errors import BinarizeWarning, DataError
from binarize.training.constant_loss import class_entropy, depth_spread
from binarize.training.evaluation import evaluate
from binarize.training.loop import train
from binarize.training.losses import SegmentationLoss, SiLog
from binarize.training.tally import Tally


def folder(root: Path, kind: str, splits: dict[str, np.ndarray]) -> None:
    random = np.random.default_rng(0)
    for split, truth in splits.items():
        for index in range(4):
            image = random.integers(0, 256, (*truth.shape, 3)).astype(np.uint8)
            for name, array in (("images", image), (kind, truth)):
                path = root / split / name / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)


def recipe(root: Path, options: dict[str, Any]) -> recipes.Recipe:
    plain = values(epochs=1, batch=4)
    plain["data"] |= {"name": "folder", "root": str(root), "options": options}
    return recipes.validate(plain, "a test")


GOOD = np.resize(np.arange(500, 9500, 7, dtype=np.uint16), (32, 32))
MASK = np.resize(np.array([0, 1, 2], dtype=np.uint8), (32, 32))


@pytest.mark.parametrize("bad", ["train", "val"])
def test_depth_in_a_wrong_unit_is_found_before_training(bad: str, tmp_path: Path) -> None:
    splits = {split: GOOD if split != bad else GOOD // 1000 * 0 + 65535 for split in ("train", "val")}
    folder(tmp_path, "depth", splits)
    with pytest.raises(DataError, match=f"folder {bad}: not one pixel of 4 images has a truth: .*65535"):
        train(recipe(tmp_path, {"max_depth": 10.0}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_truths_that_the_augmentation_cuts_away(tmp_path: Path) -> None:
    truth = np.full((32, 32), 255, dtype=np.uint8)
    truth[0] = MASK[0]
    folder(tmp_path, "masks", {"train": truth, "val": MASK})
    chosen = recipes.validate(
        recipes.apply_settings(
            recipe(tmp_path, {"classes": 3}).model_dump(mode="json"),
            ["data.augmentation={border: [8, 32, 0, 32], size: [24, 24]}"],
        ),
        "a test",
    )
    with pytest.raises(DataError, match=r"folder train: not one pixel has a truth after data.augmentation"):
        train(chosen, tmp_path / "run")


def test_classes_that_never_occur_are_named_once(tmp_path: Path) -> None:
    folder(tmp_path, "masks", {"train": MASK, "val": MASK})
    chosen = recipe(tmp_path, {"classes": ["sky", "road", "car", "tree"]})
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        train(chosen, tmp_path / "run")
    assert [str(w.message) for w in found if w.category is BinarizeWarning] == [
        "folder train: 1 of 4 classes were in no truth of the first epoch, as the augmentation cut them: "
        "3 (tree). If they are rare, later epochs may hold them; `binarize data check RECIPE` says which "
        "classes the files hold."
    ]


def test_what_was_said_is_not_said_again() -> None:
    data = create("shapes", "train", length=2)
    for known in (set(), {"absent"}):
        tally = Tally(data, "x", known)
        tally.add(torch.tensor([[[0, 1, 255]]]))
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            tally.check(torch.device("cpu"))
        assert len(found) == (not known)


def test_counts_are_of_all_pixels() -> None:
    data = create("shapes", "train", length=2)
    tally = Tally(data, "x", set())
    target = torch.full((2, 30, 30), 255)
    target[0, 0, :6] = torch.arange(6)
    tally.add(target)
    with pytest.warns(BinarizeWarning, match=r"x: only 0.33 % of the pixels of an epoch have a truth"):
        tally.check(torch.device("cpu"))
    depth = Tally(create("shapes", "train", length=2, task="depth"), "x", set())
    depth.add(torch.full((2, 3, 3), 20.0))
    with pytest.raises(DataError, match=r"x: not one pixel has a truth after data.augmentation"):
        depth.check(torch.device("cpu"))


def test_an_evaluation_of_nothing(tmp_path: Path) -> None:
    folder(tmp_path, "depth", {"test": GOOD})
    net = Small(1, 10.0)
    data = create("folder", "test", tmp_path, max_depth=10.0, scale=1.0)
    message = "mine: not one pixel of 4 images has a truth: .*millimetres: set `scale: 1000`"
    with pytest.raises(DataError, match=message):
        evaluate(net, plain(data), where="mine")
    assert evaluate(net, plain(create("folder", "test", tmp_path, max_depth=10.0)))["images"] == 4


@pytest.mark.parametrize("mode", [True, False])
def test_an_evaluation_leaves_each_module_in_its_own_mode(mode: bool) -> None:
    net = Small(6, None).train(mode)
    child = next(net.children()).train(not mode)
    evaluate(net, plain(create("shapes", "test", length=2)))
    assert (net.training, child.training) == (mode, not mode)


def plain(data: Any) -> Any:
    from binarize.data.transforms import evaluation_transform

    return data.with_transform(evaluation_transform(data.truth))


def test_a_network_with_more_outputs_than_it_says() -> None:
    data = plain(create("shapes", "val", length=2, size=(32, 32)))
    torch.manual_seed(1)
    assert 0 <= evaluate(Small(9, None), data)["pixel_accuracy"] <= 1


def test_images_that_are_in_both_splits(tmp_path: Path) -> None:
    folder(tmp_path, "masks", {"train": MASK, "val": MASK})
    (tmp_path / "val/images/2.png").write_bytes((tmp_path / "train/images/1.png").read_bytes())
    (tmp_path / "val/images/3.png").unlink()
    (tmp_path / "val/images/3.png").symlink_to(tmp_path / "train/images/3.png")
    message = r"folder val: 2 of 4 images are in folder train too, first .*val/images/2.png is .*images/1"
    with pytest.warns(BinarizeWarning, match=message):
        train(recipe(tmp_path, {"classes": 3}), tmp_path / "run")


def test_a_crop_larger_than_all_images(tmp_path: Path) -> None:
    folder(tmp_path, "masks", {"train": MASK, "val": MASK})
    plain = recipe(tmp_path, {"classes": 3}).model_dump(mode="json")
    found = recipes.apply_settings(plain, ["data.augmentation.size=[48, 32]"])
    with pytest.warns(BinarizeWarning, match=r"every image is smaller .* \[48, 32\]: at most 32x32"):
        train(recipes.validate(found, "a test"), tmp_path / "run")
    enlarged = recipes.apply_settings(found, ["data.augmentation.scale=[0.5, 1.5]"])
    train(recipes.validate(enlarged, "a test"), tmp_path / "other")  # some crops are whole


def test_the_least_loss_of_a_constant_prediction() -> None:
    counts = torch.tensor([30.0, 60.0, 10.0, 0.0])
    assert class_entropy(counts) == pytest.approx(-sum(p * math.log(p) for p in (0.3, 0.6, 0.1)))
    weights = torch.tensor([2.0, 0.5, 6.0, 1.0])
    ids = torch.repeat_interleave(torch.arange(4), counts.long())[None, None]
    loss = SegmentationLoss(weights)
    logits = torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=100)

    def closure() -> Any:
        optimizer.zero_grad()
        value = loss(logits.view(1, 4, 1, 1).expand(1, 4, 1, 100), ids)
        value.backward()
        return value

    optimizer.step(closure)
    assert class_entropy(counts, weights) == pytest.approx(closure().item(), abs=1e-3)


def test_the_least_loss_of_a_constant_depth() -> None:
    depth = torch.rand(1, 8, 8) * 9 + 0.5
    logs = depth.double().log()
    least = depth_spread(depth.numel(), float(logs.sum()), float(logs.square().sum()))
    loss = SiLog(Depth(scale=1.0, most=10.0))
    values = [float(loss(torch.full((1, 1, 8, 8), c), depth)) for c in np.linspace(0.5, 9.5, 400)]
    assert min(values) == pytest.approx(least, rel=1e-3)


@pytest.mark.parametrize(("kind", "options"), [("masks", {"classes": 3}), ("depth", {"max_depth": 10.0})])
def test_a_training_that_learns_nothing_says_so(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    folder(tmp_path, kind, {"train": MASK if kind == "masks" else GOOD})
    plain = recipe(tmp_path, options).model_dump(mode="json")
    settings = ["training.epochs=20", "training.batch=4", "data.val=null", "training.lr=1e-12", "method=null"]
    chosen = recipes.validate(recipes.apply_settings(plain, settings), "a test")
    message = "the loss at the end, .*, is above .*: the network has learned nothing"
    with pytest.warns(BinarizeWarning, match=message):
        train(chosen, tmp_path / "run")
    shorter = recipes.apply_settings(chosen.model_dump(mode="json"), ["training.epochs=3"])
    train(recipes.validate(shorter, "a test"), tmp_path / "shorter")  # a try-out of three steps


def test_a_training_that_learns_is_not_warned_of(tmp_path: Path) -> None:
    halves = np.zeros((32, 32), dtype=np.uint8)
    halves[:, 16:] = 1
    folder(tmp_path, "masks", {"train": halves})
    plain = recipe(tmp_path, {"classes": 2}).model_dump(mode="json")
    settings = ["training.epochs=20", "data.val=null", "training.lr=1e-2", "method=null"]
    for index in range(4):  # images that show their masks
        shown = np.repeat((halves * 200)[..., None], 3, axis=2)
        shown[0, 0] = index
        Image.fromarray(shown).save(tmp_path / f"train/images/{index}.png")
    train(recipes.validate(recipes.apply_settings(plain, settings), "a test"), tmp_path / "run")
