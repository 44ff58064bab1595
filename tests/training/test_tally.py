"""What an epoch, or an evaluation, has to have in it."""

from __future__ import annotations

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
from binarize.errors import BinarizeWarning, DataError
from binarize.training.evaluation import evaluate
from binarize.training.loop import train
from binarize.training.tally import Tally


def folder(root: Path, kind: str, splits: dict[str, np.ndarray]) -> None:
    for split, truth in splits.items():
        for index in range(4):
            for name, array in (("images", np.zeros((*truth.shape, 3), dtype=np.uint8)), (kind, truth)):
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
        "folder train: 1 of 4 classes occur nowhere: 3 (tree). The network cannot learn them; are the number "
        "of classes and the ids of the masks right?"
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


def plain(data: Any) -> Any:
    from binarize.data.transforms import evaluation_transform

    return data.with_transform(evaluation_transform(data.truth))


def test_a_network_with_more_outputs_than_it_says() -> None:
    data = plain(create("shapes", "val", length=2, size=(32, 32)))
    torch.manual_seed(1)
    assert 0 <= evaluate(Small(9, None), data)["pixel_accuracy"] <= 1
