"""Data from which nothing, or something wrong, would be learned."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from binarize import data
from binarize.data.survey import Survey, inspect
from binarize.errors import BinarizeWarning, DataError


def pair(root: Path, name: str, truth: np.ndarray, *, kind: str = "masks", image: np.ndarray | None = None,
         tags: tuple[int, int] = (1, 1)) -> None:  # fmt: skip
    shown = np.zeros((*truth.shape, 3), dtype=np.uint8) if image is None else image
    for folder, array, tag in (("images", shown, tags[0]), (kind, truth, tags[1])):
        at = root / "train" / folder / f"{name}.{'tif' if array.dtype == np.float32 else 'png'}"
        at.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = tag
        Image.fromarray(array).save(at, exif=exif)


def depth(root: Path, low: float, high: float, dtype: Any = np.uint16, count: int = 3) -> None:
    for index in range(count):
        pair(root, str(index), np.linspace(low, high, 400).reshape(20, 20).astype(dtype), kind="depth")


def masks(root: Path, *values: int, count: int = 3) -> None:
    for index in range(count):
        pair(root, str(index), np.resize(np.array(values, dtype=np.uint8), (20, 20)))


@pytest.mark.parametrize(
    ("low", "high", "dtype", "scale", "remedy"),
    [
        (
            400,
            9000,
            np.uint16,
            1.0,
            r"values are 400 to 9000, .*like millimetres: set `scale: 1000`",
        ),
        (400, 9000, np.float32, 1.0, "like millimetres: set `scale: 1000`"),
        (0.4, 9, np.float32, 10_000.0, r"values are 0.4 to 9.*like metres: set `scale: 1`"),
        (40, 900, np.uint16, 1.0, "like centimetres: set `scale: 100`"),
        (400, 2000, np.uint16, 1.0, "1/256 metre.*`scale: 256`, or like millimetres: set `scale: 1000`"),
        (2000, 45_000, np.uint16, 1.0, "like 1/5000 metre, as TUM's: set `scale: 5000`"),
        (0, 0, np.uint16, 1000.0, "their values are 0, which are not depths: a depth is above 0"),
        (-9, -1, np.float32, 1.0, "their values are -9 to 0, which are not depths"),
        (65535, 65535, np.uint16, 1000.0, "65.53 m; .* count; see `scale` and `max_depth` in data.options"),
    ],
)
def test_no_pixel_counts_in_a_wrong_unit(
    low: float, high: float, dtype: Any, scale: float, remedy: str, tmp_path: Path
) -> None:
    depth(tmp_path, low, high, dtype)
    found = data.create("folder", "train", tmp_path, max_depth=10.0, scale=scale)
    with pytest.raises(DataError, match=f"mine: not one pixel of 3 images has a truth: .*{remedy}"):
        inspect(found, "mine")


@pytest.mark.parametrize(
    ("low", "high", "dtype", "scale", "remedy"),
    [
        (0.4, 9, np.float32, 50.0, "0.008 to 0.18 m; .* like metres: set `scale: 1`"),
        (400, 9000, np.uint16, 256.0, "1.56.* to 35.16 m; .* like millimetres: set `scale: 1000`"),
        (40, 900, np.uint16, 1000.0, "0.04 to 0.9 m; .* like centimetres: set `scale: 100`"),
        (800, 7000, np.uint16, 5000.0, "0.16 to 1.4 m; .* like millimetres: set `scale: 1000`"),
        (200, 1800, np.uint16, 1000.0, "0.2 to 1.8 m; .* like 1/256 metre, as KITTI's: set `scale: 256`"),
    ],
)
def test_a_unit_that_lets_some_pixels_count(
    low: float, high: float, dtype: Any, scale: float, remedy: str, tmp_path: Path
) -> None:
    depth(tmp_path, low, high, dtype)
    found = data.create("folder", "train", tmp_path, max_depth=10.0, scale=scale)
    with pytest.warns(BinarizeWarning, match=remedy):
        assert inspect(found, "mine") == {"unit"}


def test_right_data_is_not_warned_of(tmp_path: Path) -> None:
    depth(tmp_path / "depth", 500, 9500)
    masks(tmp_path / "masks", 0, 1, 2, 255)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert inspect(data.create("folder", "train", tmp_path / "depth", max_depth=10.0), "x") == set()
        assert inspect(data.create("folder", "train", tmp_path / "masks", classes=3), "x") == set()
        assert inspect(data.create("shapes", "train", length=2), "x") == set()


def test_a_truth_that_is_nearly_empty(tmp_path: Path) -> None:
    for index in range(2):
        truth = np.full((20, 20), 255, dtype=np.uint8)
        truth[0, index] = index
        pair(tmp_path, str(index), truth)
    with pytest.warns(BinarizeWarning, match=r"only 0.25 % of the pixels of 2 images have a truth"):
        assert inspect(data.create("folder", "train", tmp_path, classes=2), "mine") == {"few"}


def test_masks_of_nothing_say_what_they_hold(tmp_path: Path) -> None:
    masks(tmp_path, 255)
    with pytest.raises(
        DataError, match=r"not one pixel of 3 images.*values are 255, all of which are ignored"
    ):
        inspect(data.create("folder", "train", tmp_path, classes=5), "mine")


def test_masks_of_0_and_255_name_the_option(tmp_path: Path) -> None:
    masks(tmp_path, 0, 255, count=40)  # more than a sample
    message = r"40 images hold class 0 \(no\) only, and 255, which is ignored.*`labels: \{0: 0, 255: 1\}`"
    with pytest.raises(DataError, match=message):
        inspect(data.create("folder", "train", tmp_path, classes=["no", "yes"]), "mine")
    fine = data.create("folder", "train", tmp_path, classes=["no", "yes"], labels={0: 0, 255: 1})
    assert inspect(fine, "mine") == set()


def test_a_rare_class_beyond_the_sample_is_looked_for(tmp_path: Path) -> None:
    masks(tmp_path, 0, 255, count=40)
    found = data.create("folder", "train", tmp_path, classes=2)
    seen: list[int] = []
    add, Survey.add = Survey.add, lambda self, index: seen.append(index) or add(self, index)
    try:
        with pytest.raises(DataError):
            inspect(found, "mine")
    finally:
        Survey.add = add
    assert len(seen) == 40
    pair(tmp_path, found.pairs[seen[35]].image.stem, np.ones((20, 20), dtype=np.uint8))
    assert inspect(found, "mine") == set()


def test_a_single_class(tmp_path: Path) -> None:
    masks(tmp_path, 2)
    with pytest.warns(
        BinarizeWarning,
        match=r"3 images hold class 2 only: there is nothing .*data.options.labels",
    ):
        assert inspect(data.create("folder", "train", tmp_path, classes=5), "mine") == {"one class"}


@pytest.mark.parametrize(
    ("tags", "size", "message"),
    [
        (
            (3, 1),
            (4, 6),
            "the image has orientation 3, the truth 1, where .* turned upright; their sizes do not",
        ),
        (
            (1, 2),
            (4, 6),
            "the image has orientation 1, the truth 2, where .* turned upright; their sizes do not",
        ),
        ((6, 1), (5, 5), "the image has orientation 6, .* their sizes do not decide"),
        ((3, 2), (4, 6), "the image has orientation 3, the truth 2, "),
        ((5, 6), (4, 6), "the image has orientation 5, the truth 6, "),
    ],
)
def test_a_tag_beside_a_truth_without(
    tags: tuple[int, int], size: tuple[int, int], message: str, tmp_path: Path
) -> None:
    pair(tmp_path, "a", np.resize(np.array([0, 1], dtype=np.uint8), size), tags=tags)
    with pytest.warns(BinarizeWarning, match=rf"the EXIF tags of 1 of 1 image .*a.png: {message}"):
        assert inspect(data.create("folder", "train", tmp_path, classes=2), "mine") == {"turned"}


def test_a_turned_image_beside_a_truth_that_lies(tmp_path: Path) -> None:
    pair(tmp_path, "a", np.resize(np.array([0, 1], dtype=np.uint8), (4, 6)), tags=(6, 1))
    found = data.create("folder", "train", tmp_path, classes=2)
    message = (
        r"a.png: 6x4 .*is 4x6: the image's EXIF orientation 6 turns it upright, the truth has no such tag"
    )
    with pytest.raises(DataError, match=message):
        found[0]
    with pytest.raises(DataError, match=message):
        inspect(found, "mine")


def test_a_truth_that_was_drawn_on_the_turned_image(tmp_path: Path) -> None:
    shown = np.zeros((4, 6, 3), dtype=np.uint8)
    pair(tmp_path, "a", np.resize(np.array([0, 1], dtype=np.uint8), (6, 4)), image=shown, tags=(6, 1))
    found = data.create("folder", "train", tmp_path, classes=2)
    assert found[0].image.shape[1:] == found[0].target.shape == (6, 4)
    with pytest.warns(BinarizeWarning, match="their sizes fit"):
        inspect(found, "mine")


@pytest.mark.parametrize("kind", ["1", "P", "CMYK", "pgm"])
def test_small_numbers_that_are_not_dark(kind: str, tmp_path: Path) -> None:
    pair(tmp_path, "a", np.resize(np.array([0, 1], dtype=np.uint8), (4, 4)))
    images = tmp_path / "train/images"
    (images / "a.png").unlink()
    if kind == "pgm":  # Pillow stretches what has another maximum
        (images / "a.pgm").write_bytes(b"P5 4 4 4095\n" + b"\x0f\xa0" * 16)
    else:
        picture = Image.new("RGB", (4, 4), "white").convert(kind)
        picture.save(images / ("a.tif" if kind == "CMYK" else "a.png"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert inspect(data.create("folder", "train", tmp_path, classes=2), "mine") == set()


@pytest.mark.parametrize(
    ("dtype", "largest", "white"),
    [(np.uint16, 200, 255), (np.uint16, 4000, 4095), (np.uint8, 1, 1), (np.uint8, 14, 15)],
)
def test_images_that_use_a_part_of_their_range(dtype: Any, largest: int, white: int, tmp_path: Path) -> None:
    """Scans of 12 bits in files of 16; images in [0, 1] that were written as bytes."""
    truth, full = np.resize(np.array([0, 1], dtype=np.uint8), (4, 4)), np.iinfo(dtype)
    for name in "ab":
        pair(tmp_path, name, truth, image=np.full((4, 4), largest, dtype=dtype))
    found = data.create("folder", "train", tmp_path, classes=2)
    message = rf"2 images is above {largest} .*{full.max} that stand .*is {white}, .* full {full.bits} b"
    with pytest.warns(BinarizeWarning, match=message):
        assert inspect(found, "mine") == {"dark"}
    pair(tmp_path, "b", truth, image=np.full((4, 4), full.max - 1, dtype=dtype))
    assert inspect(found, "mine") == set()  # one of them is bright: they use the whole range
