"""Pairs of files as zip programs, Windows and macOS leave them."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from binarize import data
from binarize.data.files import lines
from binarize.errors import BinarizeWarning, ConfigError, DataError

NAME = "größe é"


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (3, 2)).save(path)


def ids(path: Path, *values: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.resize(np.array(values, dtype=np.uint8), (2, 3))).save(path)


def camvid(root: Path) -> Path:
    image(root / "images/a.jpg")
    ids(root / "masks/a.png", 0, 1)
    return root


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfimages/a.jpg masks/a.png\r\n",
        "images\\a.jpg masks\\a.png\r\n\r\n".encode("utf-16"),
        "\ufeffimages/a.jpg masks/a.png\n".encode("utf-16-be"),
        b".\\images\\a.jpg\tmasks\\a.png\r\n",
        b"\\images\\a.jpg /masks/a.png",
        b"\\SegNet\\CamVid\\images\\a.jpg /SegNet/CamVid/masks/a.png",
    ],
)
def test_lists_of_windows(content: bytes, tmp_path: Path) -> None:
    (camvid(tmp_path) / "train.txt").write_bytes(content)
    (pair,) = data.create("camvid", "train", tmp_path).pairs
    assert pair.target is not None
    assert (pair.image.samefile(tmp_path / "images/a.jpg"), pair.target.is_file()) == (True, True)


def test_a_list_in_utf_16_without_a_mark_says_so(tmp_path: Path) -> None:
    (camvid(tmp_path) / "train.txt").write_bytes("images/a.jpg masks/a.png\n".encode("utf-16-le"))
    with pytest.raises(DataError, match=r"train.txt: .*UTF-16 without a mark\?.* Save it as UTF-8"):
        data.create("camvid", "train", tmp_path)


def test_classes_and_lists_with_a_byte_order_mark(tmp_path: Path) -> None:
    (camvid(tmp_path) / "train.txt").write_bytes(b"images/a.jpg masks/a.png")
    palette = [[i, i, i] for i in range(11)]
    (tmp_path / "classes.json").write_text(json.dumps({"palette": palette}), encoding="utf-8-sig")
    assert data.create("camvid", "train", tmp_path).truth.palette[3] == (3, 3, 3)
    (tmp_path / "list.txt").write_bytes(b"\xff\xfea\0")
    assert lines(tmp_path / "list.txt") == {1: "a"}


def test_bts_and_voc_lists_of_windows(tmp_path: Path) -> None:
    image(tmp_path / "sync/kitchen/rgb_0.jpg")
    Image.fromarray(np.full((2, 3), 2000, dtype=np.uint16)).save(tmp_path / "sync/kitchen/sync_depth_0.png")
    (tmp_path / "nyudepthv2_train_files_with_gt.txt").write_bytes(
        b"\xef\xbb\xbf\\kitchen\\rgb_0.jpg \\kitchen\\sync_depth_0.png 518.8579\r\n"
    )
    assert data.create("nyuv2", "train", tmp_path)[0].target.unique().tolist() == [2.0]
    base = tmp_path / "VOC2012"
    image(base / "JPEGImages/a.jpg")
    ids(base / "SegmentationClass/a.png", 3)
    (base / "ImageSets/Segmentation").mkdir(parents=True)
    (base / "ImageSets/Segmentation/val.txt").write_bytes(b"\xef\xbb\xbfJPEGImages\\a.jpg\r\n")
    assert len(data.create("voc2012", "val", base)) == 1


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_are_equal_however_accents_are_spelled(form: str, tmp_path: Path) -> None:
    other = "NFD" if form == "NFC" else "NFC"
    one, two = unicodedata.normalize(form, NAME), unicodedata.normalize(other, NAME)
    assert one != two
    image(tmp_path / f"train/images/{one}.jpg")
    ids(tmp_path / f"train/masks/{two}.png", 0, 1)
    assert len(data.create("folder", "train", tmp_path, classes=2)) == 1
    (tmp_path / "train.txt").write_text(f"train/images/{two}.jpg train/masks/{one}.png\n", encoding="utf-8")
    assert len(data.create("camvid", "train", tmp_path)) == 1


def litter(folder: Path) -> None:
    (folder / "._a.png").write_bytes(b"\0\5\x16\7 of macOS")
    (folder / ".hidden.jpg").write_bytes(b"")
    (folder / ".DS_Store").write_bytes(b"")
    (folder / "Thumbs.db").write_bytes(b"")
    (folder / "b.png").mkdir()


def test_what_operating_systems_leave_is_no_picture(tmp_path: Path) -> None:
    image(tmp_path / "train/images/a.jpg")
    ids(tmp_path / "train/masks/a.png", 0, 1)
    for name in ("images", "masks"):
        litter(tmp_path / "train" / name)
    (pair,) = data.create("folder", "train", tmp_path, classes=2).pairs
    assert pair.image.name == "a.jpg"
    base = tmp_path / "ADEChallengeData2016"
    image(base / "images/validation/a.jpg")
    ids(base / "annotations/validation/a.png", 0, 1)
    litter(base / "images/validation")
    assert len(data.create("ade20k", "val", tmp_path)) == 1
    image(tmp_path / "camvid/test/a.png")
    ids(tmp_path / "camvid/testannot/a.png", 0, 1)
    for name in ("test", "testannot"):
        litter(tmp_path / "camvid" / name)
    assert len(data.create("camvid", "test", tmp_path / "camvid")) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda base: image(base / "images/a.png"), r"images: a.jpg and a.png have one name"),
        (lambda base: ids(base / "masks/a.bmp", 0), r"masks: a.bmp and a.png have one name"),
        (
            lambda base: (image(base / "images/c.png"), ids(base / "masks/c_mask.png", 1)),
            r"1 of 2 images have no truth, first c.png; 1 of 2 truths have no image.*\. Looked for c in ",
        ),
    ],
)
def test_names_that_do_not_pair(change: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    image(tmp_path / "train/images/a.jpg")
    ids(tmp_path / "train/masks/a.png", 0, 1)
    change(tmp_path / "train")
    with pytest.raises(DataError, match=message):
        data.create("folder", "train", tmp_path, classes=2)


def test_truths_without_an_image_are_named(tmp_path: Path) -> None:
    image(tmp_path / "train/images/a.jpg")
    for name in "abc":
        ids(tmp_path / f"train/masks/{name}.png", 0, 1)
    with pytest.warns(BinarizeWarning, match=r"masks: 2 of 3 truths have no image .*first b.png"):
        assert len(data.create("folder", "train", tmp_path, classes=2)) == 1


def test_values_that_stand_for_classes(tmp_path: Path) -> None:
    image(tmp_path / "train/images/a.jpg")
    ids(tmp_path / "train/masks/a.png", 0, 255, 0, 7, 0, 255)
    options = {"classes": 2, "labels": {0: 0, 255: 1}, "ignored": [7]}
    found = data.create("folder", "train", tmp_path, **options)
    assert found[0].target.tolist() == [[0, 1, 0], [255, 0, 1]]
    again = data.create("folder", "train", tmp_path, classes=2, labels={"255": "1"}, ignored=[7])
    assert again.truth.mapping == ((255, 1),)  # as a recipe in a file's header says it
    ids(tmp_path / "train/masks/a.png", 0, 255, 128)
    with pytest.raises(DataError, match=r"pixels have class id 128; expected 0 to 1"):
        found[0]


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ((0, 255), {"classes": 2, "ignored": []}, r"class id 255; expected 0 to 1\. .*`ignored: \[255\]` if.*"
         r"or `labels: \{0: 0, 255: 1\}` if they are class 1"),
        ((1, 2, 3), {"classes": 3}, r"class id 3; .*`labels: \{1: 0, 2: 1, 3: 2\}` if ids count from 1"),
        ((0, 64, 128), {"classes": 3}, r"class id 64, 128; .*`labels: \{0: 0, 64: 1, 128: 2\}` if"),
        ((0, 1, 2, 3), {"classes": 3}, r"class id 3; .*`classes: 4` or their names.*\{0: 255, 1: 0, 2: 1,"),
        ((0, 2, 5), {"classes": 4}, r"class id 5; .*`classes`, at least 6 or their names"),
        ((0, 1, 2, 255), {"classes": 11, "ignored": [11]}, r"class id 255; .*`ignored: \[11, 255\]` if"),
        ((0, 3, 40, 255), {"classes": 2, "ignored": []}, r"40, 255; .*: `ignored` for values to ignore"),
    ],
)  # fmt: skip
def test_values_that_are_no_classes_name_the_option(
    values: tuple[int, ...], options: dict[str, object], message: str, tmp_path: Path
) -> None:
    image(tmp_path / "train/images/a.jpg")
    ids(tmp_path / "train/masks/a.png", *values)
    with pytest.raises(DataError, match=message):
        data.create("folder", "train", tmp_path, **options)[0]


def test_options_that_no_mask_can_fit(tmp_path: Path) -> None:
    image(tmp_path / "train/images/a.jpg")
    ids(tmp_path / "train/masks/a.png", 0, 255)
    with pytest.raises(ConfigError, match=r"1 class; .* background is a class too: `classes: 2`.*labels"):
        data.create("folder", "train", tmp_path, classes=1)
    with pytest.raises(ConfigError, match=r"labels: \{255: 2\}: expected a class id from 0 to 1"):
        data.create("folder", "train", tmp_path, classes=2, labels={255: 2})
    with pytest.raises(ConfigError, match=r"classes: 'cat' is given twice"):
        data.create("folder", "train", tmp_path, classes=["cat", "dog", "cat"])


def test_a_mapping_is_in_the_files_of_networks() -> None:
    truth = data.Labels(names=("a", "b"), mapping=((0, 0), (255, 1)))
    from binarize.data.dataset import truth_as_json, truth_from_json

    assert truth_from_json(truth_as_json(truth)) == truth
    older = json.loads(truth_as_json(truth))
    del older["mapping"]
    assert truth_from_json(json.dumps(older)) == data.Labels(names=("a", "b"))
