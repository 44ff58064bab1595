"""The data set `folder` for data that lies otherwise: own folders, names, and splits by shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from binarize import data
from binarize.data.pairing import Naming
from binarize.data.shares import counts
from binarize.errors import BinarizeWarning, ConfigError, DataError


def pair(image: Path, mask: Path, value: int = 0) -> None:
    for path, array in ((image, np.zeros((4, 6, 3))), (mask, np.full((4, 6), value))):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array.astype(np.uint8)).save(path)


def names(root: Path, split: str = "train", **options: Any) -> list[tuple[str, str]]:
    found = data.create("folder", split, root, classes=2, **options)
    return [(p.image.name, p.target.name) for p in found.pairs if p.target is not None]


def test_folders_with_the_split_anywhere(tmp_path: Path) -> None:
    pair(tmp_path / "img/val2017/a.jpg", tmp_path / "ann/val2017/a.png")
    assert names(tmp_path, "val", images="img/{split}2017", truths="ann/{split}2017") == [("a.jpg", "a.png")]
    message = "names one folder for all splits: put {split} into it, or add `shares"
    with pytest.raises(ConfigError, match=message):
        names(tmp_path, images="img", truths="ann")
    with pytest.raises(ConfigError, match="`shares` is for files of all splits in one folder"):
        names(tmp_path, images="img/{split}", truths="ann", shares={"train": 1.0})


def test_names_by_what_they_share(tmp_path: Path) -> None:
    for city in ("a", "b"):
        pair(tmp_path / f"i/train/{city}/1_img.png", tmp_path / f"t/train/{city}/gt_1_ids.png")
    Image.new("RGB", (6, 4)).save(tmp_path / "t/train/a/gt_1_colour.png")  # no truth by its name
    options = {"images": "i/{split}", "truths": "t/{split}", "nested": True}
    naming = {"image_name": "{}_img", "truth_name": "gt_{}_ids"}
    found = data.create("folder", "train", tmp_path, classes=2, **options, **naming)
    assert [p.image.parent.name for p in found.pairs] == ["a", "b"]
    assert all(p.target is not None and p.target.parent.name == p.image.parent.name for p in found.pairs)
    with pytest.raises(DataError, match=r"2 of 2 images have no truth, .*Looked for a/1_mask in"):
        names(tmp_path, **options, image_name="{}_img", truth_name="{}_mask")
    with pytest.raises(ConfigError, match=r"truth_name: 'mask': expected one \{\}"):
        names(tmp_path, **options, truth_name="mask")


@pytest.mark.parametrize(("form", "stem", "key"), [
    ("{}", "a", "a"), ("{}_m", "a_m", "a"), ("x_{}", "x_a", "a"), ("x_{}_m", "x_a_m", "a"),
    ("{}_m", "a", None), ("x_{}", "x_", None), ("ab{}bc", "abc", None), ("ab{}bc", "abxbc", "x"),
])  # fmt: skip
def test_the_shared_part_of_a_name(form: str, stem: str, key: str | None) -> None:
    assert Naming(truth=form).truth_key(stem) == key


def test_images_and_truths_in_one_folder(tmp_path: Path) -> None:
    for name in "ab":
        pair(tmp_path / f"{name}.jpg", tmp_path / f"{name}_mask.png")
    options = {"images": ".", "truths": ".", "truth_name": "{}_mask", "shares": {"train": 1.0}}
    assert names(tmp_path, **options) == [("a.jpg", "a_mask.png"), ("b.jpg", "b_mask.png")]


def test_images_without_a_truth_can_be_left_out(tmp_path: Path) -> None:
    pair(tmp_path / "train/images/a.jpg", tmp_path / "train/masks/a.png")
    Image.new("RGB", (6, 4)).save(tmp_path / "train/images/b.jpg")
    with pytest.warns(BinarizeWarning, match=r"1 of 2 images have no truth, first b.jpg; they are left out"):
        assert names(tmp_path, unpaired="skip") == [("a.jpg", "a.png")]
    with pytest.raises(ConfigError, match="unpaired: input should be 'error' or 'skip'"):
        names(tmp_path, unpaired="drop")


def test_shares_are_splits_that_stay(tmp_path: Path) -> None:
    for index in range(20):
        pair(tmp_path / f"i/{index}.png", tmp_path / f"t/{index}.png")
    options: dict[str, Any] = {
        "images": "i",
        "truths": "t",
        "shares": {"train": 0.7, "val": 0.2, "test": 0.1},
    }
    splits = {split: names(tmp_path, split, **options) for split in options["shares"]}
    assert {split: len(found) for split, found in splits.items()} == {"train": 14, "val": 4, "test": 2}
    assert len({pair for found in splits.values() for pair in found}) == 20  # each in one split
    assert splits == {split: names(tmp_path, split, **options) for split in options["shares"]}
    assert names(tmp_path, "test", **options, seed=1) != splits["test"]
    with pytest.raises(ConfigError, match=r"unknown split of the data set folder 'vall': did you mean 'val'"):
        names(tmp_path, "vall", **options)


@pytest.mark.parametrize(("shares", "total", "expected"), [
    ({"a": 0.8, "b": 0.1, "c": 0.1}, 3, [1, 1, 1]), ({"a": 0.8, "b": 0.1, "c": 0.1}, 4, [2, 1, 1]),
    ({"a": 0.5, "b": 0.5}, 5, [3, 2]), ({"a": 0.5, "b": 0.25}, 8, [4, 2]), ({"a": 1.0}, 7, [7]),
])  # fmt: skip
def test_numbers_of_files(shares: dict[str, float], total: int, expected: list[int]) -> None:
    assert list(counts(shares, total).values()) == expected


def test_shares_that_are_none() -> None:
    for shares in ({}, {"a": 0.0}, {"a": 0.9, "b": 0.2}, {"a": -1.0}):
        with pytest.raises(ConfigError, match="expected numbers above 0 whose sum is at most 1"):
            counts(shares, 10)
    with pytest.raises(DataError, match=r"2 pairs for 3 splits \(a, b, c\)"):
        counts({"a": 0.8, "b": 0.1, "c": 0.1}, 2)
