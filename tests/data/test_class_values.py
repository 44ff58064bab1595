"""Masks whose values, or colours, stand for classes; lists of files; both as options of `folder`."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from binarize import data
from binarize.data.dataset import truth_as_json, truth_from_json
from binarize.data.labels import Labels, stored_mask
from binarize.data.own import look
from binarize.data.own.classes import Classes
from binarize.data.survey import inspect
from binarize.errors import ConfigError, DataError
from binarize.training.pictures import as_png

COLOURS = {"sky": [0, 0, 255], "road": [128, 64, 128], "car": [64, 0, 128]}


def write(path: Path, array: Any, dtype: type = np.uint8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, dtype=dtype)).save(path)
    return path


def one(root: Path, mask: Any, dtype: type = np.uint8, **options: Any) -> data.DenseDataset:
    mask = np.asarray(mask, dtype=dtype)
    write(root / "train/images/a.png", np.zeros((*mask.shape[:2], 3)))
    write(root / "train/masks/a.png", mask, dtype)
    return data.create("folder", "train", root, **options)  # type: ignore[return-value]


def test_the_class_of_each_value(tmp_path: Path) -> None:
    found = one(tmp_path, [[0, 3, 7], [255, 7, 0]], classes={0: "back", 3: "cat", 7: "dog"})
    assert found[0].target.tolist() == [[0, 1, 2], [255, 2, 0]]
    again = one(tmp_path, [[0, 3, 7]], classes={"7": "dog", "0": "back", "3": "cat"})
    assert again[0].target.tolist() == [[1, 2, 0]]  # as a recipe in a file's header has it, in its order
    with pytest.raises(
        DataError, match=r"2 pixels have the value 1, 2; expected 0, 3, 7, or 255.*`classes: \{1"
    ):
        one(tmp_path, [[0, 1, 2]], classes={0: "back", 3: "cat", 7: "dog"})[0]
    wide = one(tmp_path, [[0, 900]], np.uint16, classes={0: "back", 900: "cat"})
    assert wide[0].target.tolist() == [[0, 1]]


def test_the_class_of_each_colour(tmp_path: Path) -> None:
    mask = [[[0, 0, 255], [64, 0, 128]], [[128, 64, 128], [0, 0, 0]]]
    found = one(tmp_path, mask, colours=COLOURS, ignored=[[0, 0, 0]])
    assert found[0].target.tolist() == [[0, 2], [1, 255]]
    assert isinstance(found.truth, Labels)
    assert found.truth.palette == ((0, 0, 255), (128, 64, 128), (64, 0, 128))
    with pytest.raises(
        DataError, match=r"1 pixels have the colour \[0, 0, 0\]; expected \[0, 0, 255\].*colours"
    ):
        one(tmp_path, mask, colours=COLOURS)[0]
    alpha = np.concatenate([np.array(mask), np.full((2, 2, 1), 9)], axis=2)
    assert one(tmp_path, alpha, colours=COLOURS, ignored=[[0, 0, 0]])[0].target.tolist() == [[0, 2], [1, 255]]


def test_colours_of_a_palette_are_read_through_it(tmp_path: Path) -> None:
    write(tmp_path / "train/images/a.png", np.zeros((1, 2, 3)))
    mask = Image.fromarray(np.array([[1, 0]], dtype=np.uint8), mode="P")
    mask.putpalette([64, 0, 128, 0, 0, 255])
    (tmp_path / "train/masks").mkdir()
    mask.save(tmp_path / "train/masks/a.png")
    assert data.create("folder", "train", tmp_path, colours=COLOURS)[0].target.tolist() == [[0, 2]]


@pytest.mark.parametrize(("options", "message"), [
    ({"classes": {0: "a", 3: "b"}, "labels": {7: 1}}, "leave `labels` out"),
    ({"classes": {0: "a", 3: "b"}, "ignored": [3]}, "3 is a class and is ignored"),
    ({"classes": {0: "a", -3: "b"}}, "value -3"),
    ({"classes": {0: "a"}}, "1 class"),
    ({"classes": {0: "a", 1: "a"}}, "'a' is given twice"),
    ({"classes": 2, "colours": COLOURS}, "got classes and colours"),
    ({}, "got none of them"),
    ({"colours": {"a": [0, 0, 0], "b": [0, 0, 0]}}, "two classes have one colour"),
    ({"colours": {"a": [0, 0, 0], "b": [0, 0, 256]}}, r"b: \[0, 0, 256\]: expected a colour"),
    ({"colours": COLOURS, "ignored": [255]}, "ignored: 255: expected a colour"),
    ({"classes": 2, "ignored": [[0, 0, 0]]}, r"ignored: \[0, 0, 0\]: expected a value"),
])  # fmt: skip
def test_options_that_contradict(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        one(tmp_path, [[0, 1]], **options)


TRUTHS = [
    Labels(names=("a", "b", "c")),
    Labels(names=("a", "b", "c"), values=(0, 3, 7)),
    Labels(names=("a", "b", "c"), values=(7, 0, 900)),
    Labels(names=("a", "b", "c"), values=(255, 64 << 16, 128), coloured=True, ignored=()),
    Labels(names=("a", "b", "c"), mapping=((0, 0), (255, 1), (7, 255))),
    Labels(names=("a", "b", "c"), mapping=((1, 0), (2, 1), (3, 2), (4, 2))),
]


@pytest.mark.parametrize("truth", TRUTHS)
def test_predicted_masks_hold_the_values_of_the_data(truth: Labels, tmp_path: Path) -> None:
    ids = torch.tensor([[0, 1, 2], [2, 1, 0]])
    path = tmp_path / "made.png"
    path.write_bytes(as_png(ids, truth))
    assert truth.read(path).equal(ids)  # the data's own reading gives the ids back
    assert truth.ids(truth.read_values(path), path).equal(ids)
    assert truth_from_json(truth_as_json(truth)) == truth
    if truth.coloured:
        assert np.asarray(Image.open(path))[0].tolist() == [[0, 0, 255], [64, 0, 0], [0, 0, 128]]
    else:
        stored = stored_mask(ids, truth)
        assert np.asarray(Image.open(path)).tolist() == stored.tolist()
        expected = dict(truth.mapping) or dict(zip(truth.values, range(3), strict=False))
        assert all(expected.get(int(v), int(v)) == i for v, i in zip(stored.flat, ids.flatten(), strict=True))


def test_the_palette_follows_the_values() -> None:
    truth = Labels(names=("a", "b"), values=(0, 200), palette=((1, 2, 3), (4, 5, 6)))
    with Image.open(BytesIO(as_png(torch.tensor([[0, 1]]), truth))) as made:
        assert np.asarray(made.convert("RGB")).tolist() == [[[1, 2, 3], [4, 5, 6]]]


def test_values_in_findings(tmp_path: Path) -> None:
    found = one(tmp_path, [[[9, 9, 9]] * 2] * 2, colours=COLOURS, ignored=[[9, 9, 9]])
    with pytest.raises(DataError, match=r"their values are \[9, 9, 9\], all of which are ignored"):
        inspect(found, "mine")


def test_an_earlier_truth_has_ids() -> None:
    text = '{"names": ["a", "b"], "palette": [], "ignored": [255], "unscored": [], "task": "segmentation"}'
    assert truth_from_json(text) == Labels(names=("a", "b"))


# lists


def scenes(root: Path, names: list[str], images: str = "images", masks: str = "masks") -> None:
    for index, name in enumerate(names):
        write(root / images / f"{name}.jpg", np.full((32, 32, 3), 40 * index))
        write(root / masks / f"{name}.png", np.arange(1024).reshape(32, 32) % 2)


def files(found: data.DenseDataset) -> list[str]:
    return [f"{p.image.name} {p.target.name}" for p in found.pairs if p.target is not None]


@pytest.mark.parametrize("line", [
    "images/{}.jpg masks/{}.png", "images/{}.jpg\tmasks/{}.png 518.8", "images/{}.jpg,masks/{}.png",
    "/SegNet/Mine/images/{}.jpg /SegNet/Mine/masks/{}.png", "images\\{}.jpg masks\\{}.png", "{}", "{}.jpg",
    "images/{}.jpg;masks/{}.png",
])  # fmt: skip
def test_lists_of_pairs_and_of_names(line: str, tmp_path: Path) -> None:
    scenes(tmp_path, ["a 1", "b", "c"])
    heading = "image,mask\n" if "," in line else ""
    (tmp_path / "train.txt").write_text(heading + "".join(f"{line.format(n, n)}\n" for n in ("b", "a 1")))
    options = {"images": "images", "truths": "masks", "lists": "{split}.txt", "classes": 2}
    found = data.create("folder", "train", tmp_path, **options)
    assert files(found) == ["b.jpg b.png", "a 1.jpg a 1.png"]  # type: ignore[arg-type]


def test_lists_that_do_not_fit(tmp_path: Path) -> None:
    scenes(tmp_path, ["a"])
    options = {"images": "images", "truths": "masks", "lists": "{split}.txt", "classes": 2}
    with pytest.raises(DataError, match=r"train.txt: no such list file"):
        data.create("folder", "train", tmp_path, **options)
    (tmp_path / "train.txt").write_text("a\nz\n")
    with pytest.raises(DataError, match=r"1 of 2 names have no image in .*images: z"):
        data.create("folder", "train", tmp_path, **options)
    (tmp_path / "train.txt").write_text("images/a.jpg masks/a.png\nimages/z.jpg masks/z.png\n")
    with pytest.raises(DataError, match=r"train.txt: missing .*z.jpg"):
        data.create("folder", "train", tmp_path, **options)
    (tmp_path / "train.txt").write_text("images/a.jpg masks/a.png\nimages/a.jpg\n")
    with pytest.raises(DataError, match=r"line 2: one name; expected `image truth`"):
        data.create("folder", "train", tmp_path, **options)
    with pytest.raises(ConfigError, match="one list for each split"):
        data.create("folder", "train", tmp_path, **{**options, "lists": "train.txt"})


def test_a_list_of_all_files_with_shares(tmp_path: Path) -> None:
    scenes(tmp_path, list("abcdefghij"))
    (tmp_path / "all.txt").write_text("".join(f"images/{n}.jpg masks/{n}.png\n" for n in "abcdefghij"))
    found = look(None, None, lists=tmp_path / "all.txt")
    options = found.all_options()
    assert options["lists"] == "all.txt"
    assert options["shares"] == {"train": 0.8, "val": 0.1, "test": 0.1}
    parts = [data.create("folder", part, tmp_path, **options) for part in options["shares"]]
    assert [len(part) for part in parts] == [8, 1, 1]


def test_lists_are_found_beside_the_images(tmp_path: Path) -> None:
    scenes(tmp_path, ["1", "2", "3", "4"], "JPEGImages", "SegmentationClass")
    sets = tmp_path / "ImageSets/Segmentation"
    sets.mkdir(parents=True)
    for split, names in (("train", "1\n3\n"), ("val", "2\n"), ("trainval", "1\n2\n3\n")):
        (sets / f"{split}.txt").write_text(names)
    found = look(tmp_path / "JPEGImages", tmp_path / "SegmentationClass", depth=False)
    assert (found.images, found.roles) == ({"train": 2, "val": 1}, {"train": "train", "val": "val"})
    assert found.options() == {
        "lists": "ImageSets/Segmentation/{split}.txt",
        "images": "JPEGImages",
        "truths": "SegmentationClass",
    }
    train = data.create("folder", "train", found.layout.root, **found.all_options())
    assert files(train) == ["1.jpg 1.png", "3.jpg 3.png"]  # type: ignore[arg-type]
    (sets / "train.txt").write_text("other\n")  # of other files: no list of these
    assert look(tmp_path / "JPEGImages", tmp_path / "SegmentationClass", depth=False).layout.lists == ""


@pytest.mark.parametrize(("given", "splits"), [
    ("train.txt", {"train": "train", "val": "val"}),
    ("train_aug.txt", {"train": "train_aug", "val": "val"}),
    (".", {"train": "train", "val": "val"}),
    ("trainval.txt", {"train": "trainval"}),
    ("val.txt", {"train": "train", "val": "val"}),
])  # fmt: skip
def test_a_list_that_is_given(given: str, splits: dict[str, str], tmp_path: Path) -> None:
    scenes(tmp_path / "data", ["1", "2"], "train", "trainannot")
    (tmp_path / "data/lists").mkdir()
    for split in ("train", "train_aug", "trainval", "val"):
        (tmp_path / f"data/lists/{split}.txt").write_text(
            "/SegNet/C/train/1.jpg /SegNet/C/trainannot/1.png\n"
        )
    found = look(None, None, lists=tmp_path / "data/lists" / given)
    assert (found.roles, found.layout.root) == (splits, tmp_path / "data")
    assert isinstance(found.truth, Classes)
    for split in splits.values():
        made = data.create("folder", split, found.layout.root, **found.all_options())
        assert files(made) == ["1.jpg 1.png"]  # type: ignore[arg-type]


def test_a_list_of_depths_says_so_itself(tmp_path: Path) -> None:
    write(tmp_path / "rgb.png", np.zeros((32, 32, 3)))
    write(tmp_path / "depth.png", np.arange(1024).reshape(32, 32) * 9, np.uint16)
    (tmp_path / "train.txt").write_text("rgb.png depth.png 518.8\n")
    assert not isinstance(look(None, None, lists=tmp_path / "train.txt").truth, Classes)


def test_lists_that_name_nothing_here(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("x/a.jpg x/a.png\n")
    with pytest.raises(DataError, match="the files that its first lines name are not in"):
        look(None, None, lists=tmp_path / "train.txt")
    (tmp_path / "train.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match="its lines name images alone"):
        look(None, None, lists=tmp_path / "train.txt")
    with pytest.raises(DataError, match="no such list"):
        look(None, None, lists=tmp_path / "nothing.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no list of the training split"):
        look(None, None, lists=tmp_path / "empty")


def test_palettes_that_differ_are_colours(tmp_path: Path) -> None:
    for name, flat in (("a", [0, 0, 0, 255, 0, 0]), ("b", [255, 0, 0, 0, 0, 0])):
        write(tmp_path / f"images/{name}.png", np.zeros((32, 32, 3)))
        mask = Image.fromarray((np.arange(1024).reshape(32, 32) % 2).astype(np.uint8), mode="P")
        mask.putpalette(flat)
        (tmp_path / "masks").mkdir(exist_ok=True)
        mask.save(tmp_path / f"masks/{name}.png")
    found = look(tmp_path / "images", tmp_path / "masks", depth=False)
    assert found.all_options()["colours"] == {"class 0": [0, 0, 0], "class 1": [255, 0, 0]}
