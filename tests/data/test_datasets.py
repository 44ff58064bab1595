"""Data sets by their layouts on disk, written here; and what is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from binarize import data
from binarize.data.reading import read_image
from binarize.data.transforms import evaluation_transform, training_transform
from binarize.errors import ConfigError, DataError

SAMPLES = Path(os.environ.get("BINARIZE_DATA", "")) / "layout_samples"


def image(path: Path, size: tuple[int, int] = (6, 4), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, 0).save(path)


def ids(path: Path, values: list[list[int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, dtype=np.uint8)).save(path)


def depth(path: Path, size: tuple[int, int] = (6, 4), value: int = 2000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size[::-1], value, dtype=np.uint16)).save(path)


def test_ade20k(tmp_path: Path) -> None:
    base = tmp_path / "ADEChallengeData2016"
    image(base / "images/validation/ADE_val_1.jpg", (2, 1))
    ids(base / "annotations/validation/ADE_val_1.png", [[0, 150]])
    found = data.create("ade20k", "val", tmp_path)
    assert found[0].target.tolist() == [[255, 150]]  # 0 says nothing
    assert len(found.truth.names) == 151
    ids(base / "annotations/validation/ADE_val_1.png", [[0, 151]])
    with pytest.raises(DataError, match=r"ADE_val_1.png: 1 pixels have class id 151; expected 0 to 150"):
        found[0]


def test_voc_has_no_trainval(tmp_path: Path) -> None:
    base = tmp_path / "VOCdevkit/VOC2012"
    for name, masks in (("a", "SegmentationClass"), ("b", "SegmentationClassAug")):
        image(base / f"JPEGImages/{name}.jpg", (2, 1))
        ids(base / f"{masks}/{name}.png", [[20, 255]])
    (base / "ImageSets/Segmentation").mkdir(parents=True)
    (base / "ImageSets/Segmentation/val.txt").write_text("a\n")
    (base / "ImageSets/Segmentation/train_aug.txt").write_text(
        "/JPEGImages/b.jpg /SegmentationClassAug/b.png\n"
    )
    assert data.create("voc2012", "val", tmp_path)[0].target.tolist() == [[20, 255]]
    assert data.create("voc2012", "trainaug", tmp_path).pairs[0].image.name == "b.jpg"
    with pytest.raises(ConfigError, match="unknown split of voc2012 'trainval'"):
        data.create("voc2012", "trainval", tmp_path)


def test_bts_lists(tmp_path: Path) -> None:
    image(tmp_path / "kitti_dataset/d/image_02/1.png")
    image(tmp_path / "kitti_dataset/d/image_02/2.png")
    depth(tmp_path / "data_depth_annotated/train/s/1.png", value=512)
    listed = "d/image_02/1.png s/1.png 721.5\nd/image_02/2.png None 721.5\n"
    (tmp_path / "eigen_train_files_with_gt.txt").write_text(listed)
    found = data.create("kitti", "train", tmp_path)
    assert len(found) == 1
    assert found[0].target.unique().tolist() == [2.0]
    (tmp_path / "eigen_train_files_with_gt.txt").write_text("d/image_02/1.png s/3.png 721.5\n")
    with pytest.raises(DataError, match=r"eigen_train.*missing .*3\.png"):
        data.create("kitti", "train", tmp_path)


def test_your_own_folder(tmp_path: Path) -> None:
    image(tmp_path / "train/images/ein Bild ü.jpg", (2, 1))
    ids(tmp_path / "train/masks/ein Bild ü.png", [[1, 9]])
    found = data.create("folder", "train", tmp_path, classes=["a", "b"], ignored=[9])
    assert found[0].target.tolist() == [[1, 255]]
    image(tmp_path / "train/images/x.png")
    with pytest.raises(DataError, match=r"1 of 2 images have no truth, first x\.png"):
        data.create("folder", "train", tmp_path, classes=2)
    with pytest.raises(ConfigError, match="give either `classes`"):
        data.create("folder", "train", tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'classes'"):
        data.create("folder", "train", tmp_path, clases=2)


Break = Callable[[Path, Path], object]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda i, m: m.unlink(), "missing .*m.png"),
        (lambda i, m: m.write_bytes(b"no image"), "m.png: not a readable image"),
        (lambda i, m: i.write_bytes(i.read_bytes()[:40]), "i.png: not a readable image"),
        (lambda i, m: ids(m, [[0]]), "m.png: 1x1 .* its image .*i.png is 6x4"),
        (lambda i, m: image(m), "one channel .mode L or P., this one has mode RGB"),
        (lambda i, m: ids(m, [[77] * 6] * 4), "m.png: 24 pixels have class id 77; expected 0 to 10"),
    ],
)
def test_a_wrong_file_names_itself(broken: Break, message: str, tmp_path: Path) -> None:
    image(tmp_path / "i.png")
    ids(tmp_path / "m.png", [[0] * 6] * 4)
    (tmp_path / "train.txt").write_text("i.png m.png\n")
    assert data.create("camvid", "train", tmp_path)[0].target.shape == (4, 6)
    broken(tmp_path / "i.png", tmp_path / "m.png")
    with pytest.raises(DataError, match=message):
        data.create("camvid", "train", tmp_path)[0]


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=60))
def test_any_list_is_read_or_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text(text, encoding="utf-8")
    with pytest.raises(DataError):
        data.create("camvid", "train", tmp_path)


def test_where_data_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BINARIZE_DATA", raising=False)
    with pytest.raises(DataError, match="where is camvid"):
        data.create("camvid", "train")
    monkeypatch.setenv("BINARIZE_DATA", str(tmp_path))
    with pytest.raises(DataError, match="none of camvid, CamVid is there"):
        data.create("camvid", "train")
    with pytest.raises(ConfigError, match="did you mean 'camvid'"):
        data.create("camvit", "train")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16", "CMYK"])
def test_images_of_any_mode(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    if mode == "I;16":
        Image.fromarray(np.full((4, 6), 65535, dtype=np.uint16)).save(path)
    else:
        Image.new(mode, (6, 4), 1 if mode in ("1", "P") else "white").save(path)
    found = read_image(path)
    assert (found.shape, found.dtype) == ((3, 4, 6), torch.uint8)
    if mode not in ("P", "CMYK"):
        assert (found == 255).all()


def test_floating_point_images_are_not_taken_for_black(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 6), 0.5, dtype=np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(DataError, match=r"x.tif: holds floating-point numbers"):
        read_image(tmp_path / "x.tif")


def test_an_image_that_lies_on_its_side(tmp_path: Path) -> None:
    side = Image.new("RGB", (6, 4))
    exif = side.getexif()
    exif[0x0112] = 6
    side.save(tmp_path / "x.jpg", exif=exif)
    assert read_image(tmp_path / "x.jpg").shape == (3, 6, 4)


def test_drawn_images_are_the_same_every_time() -> None:
    one = data.create("shapes", "train", length=3, seed=5)
    again = data.create("shapes", "train", length=3, seed=5)
    other = data.create("shapes", "val", length=3, seed=5)
    assert torch.equal(one[1].image, again[1].image)
    assert not torch.equal(one[1].image, other[1].image)
    metres = data.create("shapes", "train", length=3, seed=5, task="depth")
    assert torch.equal(one[1].image, metres[1].image)
    assert metres[1].target.min() >= 2.0
    assert metres[1].target.max() <= 10.0
    assert (metres[1].target[one[1].target > 0] <= 8.0).all()


def test_random_choices_depend_on_epoch_and_index_only() -> None:
    drawn = data.create("shapes", "train", length=4)
    transform = training_transform(drawn.truth, size=(48, 48), long_side=100, scale=(0.5, 2.0), rotate=5.0)
    found = drawn.with_transform(transform, seed=3)
    first = found[(2, 1)]
    torch.rand(7)
    assert torch.equal(found[(2, 1)].image, first.image)
    assert not torch.equal(found[(3, 1)].image, first.image)
    assert first.image.shape == (3, 48, 48)
    assert first.target.shape == (48, 48)
    state = torch.get_rng_state()
    _ = found[(0, 0)]
    assert torch.equal(torch.get_rng_state(), state)


def test_image_and_truth_stay_together() -> None:
    """Class ids as grey values: whatever moves one moves the other."""
    drawn = data.create("shapes", "train", length=2, size=(64, 80))
    truth = drawn.load(0).target
    picture = (truth * 40).to(torch.uint8).expand(3, -1, -1)
    transform = training_transform(drawn.truth, size=(64, 80), flip=True)
    for seed in range(8):
        torch.manual_seed(seed)
        from torchvision import tv_tensors

        image, target = transform(tv_tensors.Image(picture), tv_tensors.Mask(truth))
        grey = (image[0] * 0.229 + 0.485) * 255 / 40
        assert torch.allclose(grey, target.float(), atol=1e-3)


def test_evaluation_looks_inside_the_crop(tmp_path: Path) -> None:
    image(tmp_path / "a.png", (640, 480))
    depth(tmp_path / "d.png", (640, 480))
    (tmp_path / "test.txt").write_text("a.png d.png 518\n")
    found = data.create("nyuv2-397", "test", tmp_path)
    seen = found.with_transform(evaluation_transform(found.truth, resize=(240, 320)))[0]
    assert seen.image.shape == (3, 240, 320)
    rows, columns = (seen.target > 0).any(1).nonzero(), (seen.target > 0).any(0).nonzero()
    assert (rows[0].item(), rows[-1].item()) == (45, 470)  # Eigen's crop, 45:471
    assert (columns[0].item(), columns[-1].item()) == (41, 600)  # 41:601


@pytest.mark.data
@pytest.mark.skipif(not SAMPLES.is_dir(), reason="BINARIZE_DATA names no folder with layout samples")
@pytest.mark.parametrize(
    ("name", "split", "folder"),
    [
        ("ade20k", "train", "ADE20K"),
        ("ade20k", "val", "ADE20K"),
        ("voc2012", "train", "VOC"),
        ("voc2012", "trainaug", "VOC"),
        ("voc2012", "val", "VOC"),
        ("nyuv2", "train", "NYUv2_BTS"),
        ("nyuv2", "test", "NYUv2_BTS"),
        ("kitti", "train", "KITTI_BTS"),
        ("kitti", "test", "KITTI_BTS"),
    ],
)
def test_real_samples(name: str, split: str, folder: str) -> None:
    found = data.create(name, split, SAMPLES / folder)
    for index in range(len(found)):
        sample = found[index]
        assert sample.image.shape[1:] == sample.target.shape
        values = sample.target[sample.target != 255]
        assert values.numel()


def test_a_crop_larger_than_the_image_adds_nothing() -> None:
    drawn = data.create("shapes", "train", length=1, size=(40, 60))
    seen = drawn.with_transform(evaluation_transform(drawn.truth, crop=(50, 50)))[0]
    assert seen.target.shape == (40, 50)
    assert torch.equal(seen.target, drawn.load(0).target[:, 5:55])
