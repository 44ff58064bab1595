"""What `look` finds in folders of the user's own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from binarize.data.own import look
from binarize.data.own.class_names import NamedClasses, given_names, read_names
from binarize.data.own.classes import Classes, find_classes
from binarize.data.own.depths import find_range
from binarize.data.own.layout import find_layout
from binarize.data.own.names import guess_naming
from binarize.errors import DataError


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def pair(image: Path, mask: Path, *values: int) -> None:
    write(image, np.zeros((32, 64, 3), dtype=np.uint8))
    write(mask, np.resize(np.array(values or (0, 1), dtype=np.uint8), (32, 64)))


def named(*names: str, values: tuple[int, ...] = ()) -> NamedClasses:
    numbers = values or range(len(names))
    pairs = dict(zip(numbers, names, strict=True))
    return NamedClasses(source="codes.txt", names=pairs, numbered=bool(values), colours={})


def kept(*values: int) -> dict[int, str]:
    return {value: f"class {value}" for value in values}


@pytest.mark.parametrize(
    ("values", "names", "expected", "ignored"),
    [
        ([0, 255], None, kept(0, 255), ()),
        ([0, 255], named("no", "yes"), {0: "no", 255: "yes"}, ()),
        ([0, 128, 255], None, kept(0, 128, 255), ()),
        ([0, 1, 2], None, kept(0, 1, 2), (255,)),
        ([0, 1, 255], None, kept(0, 1), (255,)),
        ([0, 2], None, kept(0, 1, 2), (255,)),  # 1 may occur elsewhere
        ([0, 3, 7], None, kept(0, 3, 7), (255,)),
        ([0, 3, 7, 255], None, kept(0, 3, 7), (255,)),
        ([1, 2, 3], None, kept(1, 2, 3), (255,)),
        ([0, 1, 2], named("a", "b", "c", "d"), {0: "a", 1: "b", 2: "c", 3: "d"}, (255,)),
        ([0, 1, 2], named("a", "b"), {1: "a", 2: "b"}, (0, 255)),  # as ADE20K
        ([1, 2], named("a", "b"), {1: "a", 2: "b"}, (255,)),
        ([0, 1, 2], named("a", "Void", "c"), {0: "a", 2: "c"}, (1, 255)),
        ([0, 1, 2], named("a", "b", "unlabeled"), {0: "a", 1: "b"}, (2, 255)),
        ([0, 7], named("a", "b", values=(0, 7)), {0: "a", 7: "b"}, (255,)),
        ([0, 7, 9], named("a", "b", values=(0, 7)), {0: "a", 7: "b"}, (9, 255)),
        (list(range(33)), None, kept(*range(33)), (255,)),
    ],
)
def test_classes_by_the_values_of_masks(
    values: list[int], names: NamedClasses | None, expected: dict[int, str], ignored: tuple[int, ...]
) -> None:
    found = find_classes(dict.fromkeys(values, 10), names, {})
    assert dict(zip(found.values or range(len(found.names)), found.names, strict=True)) == expected
    assert bool(found.values) == (list(expected) != list(range(len(expected))))
    assert found.ignored == ignored
    assert sum(found.shares) == pytest.approx(1.0)


def test_255_among_odd_values_is_a_class_that_may_be_none() -> None:
    remark = "if 255 means no label, move it from `classes` to `ignored`"
    assert remark in find_classes(dict.fromkeys([10, 77, 200, 255], 9), None, {}).why
    assert remark not in find_classes(dict.fromkeys([0, 128, 255], 9), None, {}).why


def test_ids_that_do_not_occur_are_no_classes_if_all_masks_were_read() -> None:
    found = find_classes({0: 5, 2: 5}, None, {}, complete=True)
    assert (found.names, found.values) == (("class 0", "class 2"), (0, 2))
    assert "ids 1 do not occur" in found.why


def test_classes_by_the_colours_of_masks() -> None:
    red, black, white = 255 << 16, 0, (1 << 24) - 1
    counts = {black: 50, red: 30, white: 20}
    found = find_classes(counts, None, {}, coloured=True)
    assert found.options() == {
        "colours": {"class 0": [0, 0, 0], "class 1": [255, 0, 0], "class 2": [255, 255, 255]},
        "ignored": [],
    }
    colours = {0: (255, 0, 0), 1: (0, 0, 0), 2: (9, 9, 9), 3: (255, 255, 255)}
    names = {0: "car", 1: "sky", 2: "rare", 3: "void"}
    listed = NamedClasses(source="label_colors.txt", names=names, numbered=False, colours=colours)
    found = find_classes(counts, listed, {}, coloured=True)
    assert found.options() == {
        "colours": {"car": [255, 0, 0], "sky": [0, 0, 0], "rare": [9, 9, 9]},
        "ignored": [[255, 255, 255]],
    }
    assert found.shares == (30 / 80, 50 / 80, 0.0)
    plain = find_classes(counts, named("a", "b", "c"), {}, coloured=True)
    assert plain.names == ("class 0", "class 1", "class 2")
    assert "which name is whose is not known" in " ".join(plain.why)
    mixed = {index: 10_000 if index < 3 else 1 for index in range(400)}
    with pytest.raises(DataError, match=r"400 colours: .* were the masks resized"):
        find_classes(mixed, None, {}, coloured=True)


def test_values_that_are_no_classes() -> None:
    with pytest.raises(DataError, match=r"300 values from 0 to 299: more than classes have.*--depth"):
        find_classes(dict.fromkeys(range(300), 1), None, {})
    with pytest.raises(DataError, match="all masks hold the value 3 only"):
        find_classes({3: 9}, None, {})


def test_colours_of_a_palette_follow_the_classes() -> None:
    colours = {0: (0, 0, 0), 1: (9, 0, 0), 2: (0, 9, 0)}
    assert find_classes({1: 5, 2: 5}, None, colours).palette == ((9, 0, 0), (0, 9, 0))
    assert find_classes({0: 5, 3: 5}, None, colours).palette == ()


@pytest.mark.parametrize(("content", "name", "names", "numbered", "colours"), [
    ("sky\nroad\nold car\n", "codes.txt", {0: "sky", 1: "road", 2: "old car"}, False, 0),
    ("0 sky\n7: road\n", "labels.txt", {0: "sky", 7: "road"}, True, 0),
    ("name,id\nsky,1\nroad,2\n", "classes.csv", {1: "sky", 2: "road"}, True, 0),
    ("128 128 128 Sky\n64 0 128 Car\n", "label_colors.txt", {0: "Sky", 1: "Car"}, False, 2),
    ('{"names": ["a", "b"], "palette": [[1, 2, 3], [4, 5, 6]]}', "classes.json", {0: "a", 1: "b"}, False, 2),
    ('["a", "b"]', "names.json", {0: "a", 1: "b"}, False, 0),
])  # fmt: skip
def test_lists_of_classes(
    content: str, name: str, names: dict[int, str], numbered: bool, colours: int, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    found = read_names(tmp_path / name)
    assert found is not None
    if name == "classes.csv":  # the heading is a line like others, without a number
        assert not found.numbered
        return
    assert (found.names, found.numbered, len(found.colours)) == (names, numbered, colours)


@pytest.mark.parametrize("content", ["a.jpg\nb.jpg\n", "one\n", "a\na\n", "{", "[1, 2]", "1\n2\n"])
def test_lists_of_other_things(content: str, tmp_path: Path) -> None:
    for ending in ("txt", "json"):
        (tmp_path / f"labels.{ending}").write_text(content)
    assert read_names(tmp_path / "labels.txt") is None or content in ("{", "[1, 2]")
    assert read_names(tmp_path / "labels.json") is None


def test_names_that_the_user_gives(tmp_path: Path) -> None:
    assert given_names("no, yes").names == {0: "no", 1: "yes"}
    assert given_names("0=no,255=yes").names == {0: "no", 255: "yes"}
    (tmp_path / "mine.txt").write_text("a\nb\nc\n")
    assert list(given_names(str(tmp_path / "mine.txt")).names.values()) == ["a", "b", "c"]
    for wrong in ("no", "no,0=yes", "a,a", "0=a,0=b", "x=a,y=b"):
        with pytest.raises(DataError, match="--labels"):
            given_names(wrong)


@pytest.mark.parametrize(("images", "truths", "image", "truth"), [
    (["1", "2", "12"], ["1", "2", "12"], "{}", "{}"),
    (["0001", "0002"], ["0001_L", "0002_L"], "{}", "{}_L"),
    (["a", "b", "ab"], ["a_mask", "b_mask", "ab_mask"], "{}", "{}_mask"),
    (["rgb_1", "rgb_12"], ["sync_depth_1", "sync_depth_12"], "rgb_{}", "sync_depth_{}"),
    (["u_1_leftImg8bit", "u_2_leftImg8bit"],
     [f"u_{i}_gtFine_{kind}" for i in (1, 2) for kind in ("color", "instanceIds", "labelIds")],
     "{}_leftImg8bit", "{}_gtFine_labelIds"),
    ([f"img{i}" for i in range(500)], [f"seg{i}" for i in range(500)], "img{}", "seg{}"),
])  # fmt: skip
def test_how_names_pair(images: list[str], truths: list[str], image: str, truth: str) -> None:
    found = guess_naming(images, truths)
    assert (found.image, found.truth) == (image, truth)


def test_how_names_in_one_folder_pair() -> None:
    files = ["a", "a_mask", "b", "b_mask"]
    found = guess_naming(files, files, together=True)
    assert (found.image, found.truth) == ("{}", "{}_mask")


@pytest.mark.parametrize(("images", "truths", "given", "forms", "splits"), [
    ("images", "masks", ("images", "masks"), ("images", "masks"), {}),
    ("images/{}", "masks/{}", ("images", "masks"), ("images/{split}", "masks/{split}"), "train val test"),
    ("{}/images", "{}/masks", ("train/images", "train/masks"), ("{split}/images", "{split}/masks"),
     "train val"),
    ("{}", "{}annot", ("val", "valannot"), ("{split}", "{split}annot"), "train val test"),
    ("i/{}2017", "t/{}2017", ("i", "t"), ("i/{split}2017", "t/{split}2017"), "train val"),
    ("i/{}", "t/{}", ("i", "t"), ("i/{split}", "t/{split}"), "training validation"),
    ("i/{}", "t/{}", ("i/train", "t/train"), (".", "."), "train"),  # one split is none
])  # fmt: skip
def test_where_splits_lie(
    images: str, truths: str, given: tuple[str, str], forms: tuple[str, str], splits: str, tmp_path: Path
) -> None:
    for split in (splits or "").split() or [""]:
        for form in (images, truths):
            (tmp_path / form.format(split)).mkdir(parents=True)
    found = find_layout(tmp_path / given[0], tmp_path / given[1])
    if splits == "train":
        assert not found.splits
        assert found.folders() == (tmp_path / "i/train", tmp_path / "t/train")
        return
    assert (found.images, found.truths, found.root) == (*forms, tmp_path)
    assert list(found.splits.values()) == (splits or "").split()


@pytest.mark.parametrize(("scale", "far", "dtype", "known"), [
    (1000.0, 9.5, np.uint16, 1.0), (256.0, 78.0, np.uint16, 0.05), (1.0, 9.5, np.float32, 1.0),
    (5000.0, 12.0, np.uint16, 1.0),
])  # fmt: skip
def test_units_of_depth(scale: float, far: float, dtype: type, known: float) -> None:
    metres = np.linspace(0.5, far, 40_000).reshape(200, 200)
    values = (metres * scale).astype(dtype)
    values[np.random.default_rng(0).random(values.shape) > known] = 0
    found = find_range([values, values])
    assert found.scale == scale
    assert far <= found.most <= 1.5 * far
    assert found.known == pytest.approx(known, abs=0.02)
    assert find_range([values], scale=3.0, most=7.0).most == 7.0


def test_depth_that_is_none() -> None:
    with pytest.raises(DataError, match="no value above 0"):
        find_range([np.zeros((4, 4), dtype=np.uint16)])


def test_all_of_a_folder(tmp_path: Path) -> None:
    for index in range(10):
        pair(tmp_path / f"data/images/{index}.jpg", tmp_path / f"data/masks/{index}_mask.png", 1, 2)
    write(tmp_path / "data/images/alone.png", np.zeros((32, 32, 3), dtype=np.uint8))
    pair(tmp_path / "data/images/._x.jpg", tmp_path / "data/masks/noone_mask.png")
    (tmp_path / "data/codes.txt").write_text("cat\ndog\n")
    found = look(tmp_path / "data/images", tmp_path / "data/masks", depth=False)
    assert isinstance(found.truth, Classes)
    assert (found.truth.names, found.truth.values) == (("cat", "dog"), (1, 2))
    assert found.images == {"train": 8, "val": 1, "test": 1}
    assert [p.name for p in found.without_truth] == ["alone.png"]
    assert [p.name for p in found.without_image] == ["noone_mask.png"]
    assert found.sizes == Counter({(32, 64): 10})
    assert found.options() == {
        "images": "images",
        "truths": "masks",
        "truth_name": "{}_mask",
        "unpaired": "skip",
        "shares": {"train": 0.8, "val": 0.1, "test": 0.1},
    }
    pair(tmp_path / "x.png", tmp_path / "data/other/z.png")
    with pytest.raises(DataError, match=r"0 of 11 images have a truth .*images/0.jpg.*other/z.png"):
        look(tmp_path / "data/images", tmp_path / "data/other", depth=False)
