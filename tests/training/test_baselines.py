"""Predictions that do not look at the image, against counts by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import small_net
from PIL import Image

from binarize import recipes
from binarize.errors import DataError
from binarize.training.baselines import baselines


def _folder(root: Path, truths: dict[str, list[np.ndarray]]) -> None:
    for split, arrays in truths.items():
        lines = []
        for index, array in enumerate(arrays):
            Image.new("RGB", array.shape[::-1]).save(root / f"{split}{index}.png")
            Image.fromarray(array).save(root / f"{split}{index}-truth.png")
            lines.append(f"{split}{index}.png {split}{index}-truth.png")
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n")


def _recipe(name: str, root: Path, **options: float) -> recipes.Recipe:
    values = small_net.values()
    values["data"] |= {"name": name, "options": options, "root": str(root)}
    return recipes.validate(values, "a test")


def test_classes(tmp_path: Path) -> None:
    left = np.array([[1, 2, 2, 255]], np.uint8)
    right = np.array([[1, 3, 2, 2]], np.uint8)
    third = np.array([[4, 3, 2, 1]], np.uint8)
    _folder(
        tmp_path,
        {"train": [left, right, third], "val": [left], "test": [np.array([[1, 3, 3, 255]], np.uint8)]},
    )
    found = baselines(_recipe("camvid", tmp_path))
    assert found["constant"]["pixel_accuracy"] == 0.0  # class 2 everywhere
    assert found["by_position"]["pixel_accuracy"] == pytest.approx(2 / 3)  # 1, 3, 2, anything
    assert found["by_position"]["miou"] == pytest.approx((1 + 1 / 2 + 0) / 3)


@pytest.mark.parametrize("wrong", ["train", "test"])
def test_a_split_without_a_truth_is_named(wrong: str, tmp_path: Path) -> None:
    right, void = np.array([[1, 2, 2, 255]], np.uint8), np.full((1, 4), 255, np.uint8)
    _folder(tmp_path, {split: [void if split == wrong else right] for split in ("train", "val", "test")})
    with pytest.raises(DataError, match=f"camvid {wrong}: not one pixel of 1 image has a truth"):
        baselines(_recipe("camvid", tmp_path))


def test_depths(tmp_path: Path) -> None:
    truths = {
        "train": [[[1000, 4000, 0, 2000]], [[4000, 4000, 0, 2000]], [[2000, 0, 0, 2000]]],
        "val": [[[1, 1, 1, 1]]],
        "test": [[[2000, 4000, 2000, 1000]]],
    }
    for split, arrays in truths.items():
        for part in ("images", "depth"):
            (tmp_path / split / part).mkdir(parents=True)
        for index, array in enumerate(arrays):
            Image.new("RGB", (4, 1)).save(tmp_path / split / f"images/{index}.png")
            Image.fromarray(np.array(array, np.uint16)).save(tmp_path / split / f"depth/{index}.png")
    found = baselines(_recipe("folder", tmp_path, max_depth=10.0))
    # the median of 1, 2 x 5, 4 x 3 is 2; geometric means by place are 2, 4, (the median) and 2
    assert found["constant"]["abs_rel"] == pytest.approx((0 + 1 / 2 + 0 + 1) / 4, abs=1e-3)
    assert found["by_position"]["abs_rel"] == pytest.approx((0 + 0 + 0 + 1) / 4, abs=1e-3)
