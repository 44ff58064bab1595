"""Classification data: every layout, parts, limits, transforms, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import class_data
import numpy as np
import pytest
import torch
from class_data import TEN

from binarize import data
from binarize.data.class_survey import inspect
from binarize.data.class_transforms import PaddedCrop, evaluation_transform, training_transform
from binarize.data.classes import ClassDataset
from binarize.data.dataset import truth_as_json, truth_from_json
from binarize.data.parts import drawn, few
from binarize.data.transforms import MEAN, STD
from binarize.errors import BinarizeWarning, ConfigError, DataError


def of(name: str, split: str, root: Path, **options: object) -> ClassDataset:
    found = data.create(name, split, root, **options)
    assert isinstance(found, ClassDataset)
    return found


def test_folders_and_zips_give_the_same(tmp_path: Path) -> None:
    zips, folders = tmp_path / "zips", tmp_path / "folders"
    class_data.cifar_zips(zips)
    for part, count in (("train", 10), ("test", 3)):
        class_data.folder(folders / part, class_data.images(TEN, count))
    for split, count in (("train", 90), ("val", 10), ("trainval", 100), ("test", 30)):
        one, other = of("cifar10", split, zips), of("cifar10", split, folders)
        assert len(one) == len(other) == count
        assert one.truth.names == TEN
        assert torch.equal(one.labels, other.labels)
        assert one.counts().tolist() == [count // 10] * 10
        for index in (0, count // 2, count - 1):
            sample = one[index]
            assert torch.equal(sample.image, other[index].image)
            label, number = int(sample.target), int(Path(one.name(index)).stem)
            expected = class_data.picture(label, number).transpose(2, 0, 1)
            assert np.array_equal(sample.image.numpy(), expected)


def test_train_and_val_divide_trainval(tmp_path: Path) -> None:
    root = class_data.cifar_zips(tmp_path)
    names = {s: {of("cifar10", s, root).name(i) for i in range(len(of("cifar10", s, root)))}
             for s in ("train", "val", "trainval")}  # fmt: skip
    assert not names["train"] & names["val"]
    assert names["train"] | names["val"] == names["trainval"]


def test_official_binary_files(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    labels = np.arange(40) % 10
    for i in range(5):
        (folder / f"data_batch_{i + 1}.bin").write_bytes(class_data.records(labels[8 * i : 8 * i + 8]))
    (folder / "test_batch.bin").write_bytes(class_data.records(labels[:10]))
    (folder / "batches.meta.txt").write_text("\n".join(TEN) + "\n\n")
    for root in (tmp_path, folder):
        whole, test = of("cifar10", "trainval", root), of("cifar10", "test", root)
        assert whole.truth.names == TEN
        assert whole.labels.tolist() == labels.tolist()
        expected = class_data.picture(7, 7).transpose(2, 0, 1)
        assert np.array_equal(test[7].image.numpy(), expected)
    (folder / "test_batch.bin").write_bytes(b"\x0b" + bytes(3072))
    with pytest.raises(DataError, match=r"label 11; expected 0 to 9"):
        of("cifar10", "test", tmp_path)
    (folder / "test_batch.bin").write_bytes(bytes(3000))
    with pytest.raises(DataError, match=r"3000 bytes; expected records of 3073"):
        of("cifar10", "test", tmp_path)


def test_cifar100_takes_the_fine_label(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    labels = np.array([3, 99, 50])
    for name in ("train.bin", "test.bin"):
        (folder / name).write_bytes(class_data.records(labels, prefix=1))
    (folder / "fine_label_names.txt").write_text("\n".join(f"n{i:02d}" for i in range(100)))
    found = of("cifar100", "test", tmp_path)
    assert found.labels.tolist() == labels.tolist()
    assert found.truth.names[99] == "n99"


def test_python_files_with_other_checksums_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "test_batch").write_bytes(b"cos\nsystem\n")
    with pytest.raises(DataError, match=r"not the official files.*cifar-10-batches-bin"):
        of("cifar10", "test", tmp_path)


def test_python_files_that_torchvision_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    class Read:
        def __init__(self, root: str, train: bool) -> None:
            assert Path(root) == tmp_path
            self.data = np.stack([class_data.picture(label, 0) for label in range(10)])
            self.targets = list(range(10))
            self.classes = list(TEN)

    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "test_batch").touch()
    monkeypatch.setattr(datasets, "CIFAR10", Read)
    found = of("cifar10", "test", tmp_path)
    assert np.array_equal(found[4].image.numpy(), class_data.picture(4, 0).transpose(2, 0, 1))


def test_other_folders_than_cifars(tmp_path: Path) -> None:
    class_data.folder(tmp_path / "test", class_data.images(("cat", "dog"), 1))
    with pytest.raises(DataError, match=r"2 folders of classes \(cat, dog\), expected 10: airplane"):
        of("cifar10", "test", tmp_path)
    with pytest.raises(
        DataError, match=r"no cifar10: neither cifar-10-batches-bin/test_batch.bin, nor train"
    ):
        of("cifar10", "train", tmp_path)


def test_sizes_must_be_one_for_cifar(tmp_path: Path) -> None:
    files = class_data.images(TEN, 1) | {
        "truck/0009.png": class_data.encoded(class_data.picture(0, 0, (30, 32)))
    }
    class_data.folder(tmp_path / "test", files)
    with pytest.raises(DataError, match=r"truck/0009.png: 32x30 .*0000.png is 32x32"):
        of("cifar10", "test", tmp_path)


def test_imagenet_has_the_classes_of_both_splits(tmp_path: Path) -> None:
    class_data.folder(tmp_path / "train", class_data.images(("n01", "n02", "n03"), 2, (40, 50)))
    class_data.folder(tmp_path / "val", class_data.images(("n02", "n03"), 1, (50, 40)))
    val = of("imagenet", "val", tmp_path)
    assert val.truth.names == ("n01", "n02", "n03")
    assert val.labels.tolist() == [1, 2]
    assert val[0].image.shape == (3, 50, 40)
    with pytest.warns(BinarizeWarning, match=r"imagenet val: 1 of 3 classes have no image: n01"):
        assert inspect(val, "imagenet val") == {"absent"}


def test_image_folder_in_parts(tmp_path: Path) -> None:
    class_data.folder(tmp_path, class_data.images(("a", "b", "c"), 10))
    shares = {"train": 0.7, "val": 0.2, "test": 0.1}
    parts = {s: of("image-folder", s, tmp_path, shares=shares) for s in shares}
    assert {s: p.counts().tolist() for s, p in parts.items()} == {
        "train": [7] * 3, "val": [2] * 3, "test": [1] * 3}  # fmt: skip
    names = [p.name(i) for p in parts.values() for i in range(len(p))]
    assert len(set(names)) == 30
    (tmp_path / "a" / "9999.png").write_bytes(class_data.encoded(class_data.picture(0, 99)))
    with pytest.raises(ConfigError, match=r"whose sum is 1, got 0.9"):
        of("image-folder", "val", tmp_path, shares={"train": 0.7, "val": 0.2})


def test_image_folder_of_a_part_and_zips(tmp_path: Path) -> None:
    class_data.archive(tmp_path / "train.zip", class_data.images(("x", "y"), 10))
    class_data.folder(tmp_path / "test", class_data.images(("y",), 2))
    options = {"shares": {"train": 0.8, "val": 0.2}, "of": "train"}
    assert len(of("image-folder", "val", tmp_path, **options)) == 4
    test = of("image-folder", "test", tmp_path, **options)
    assert test.truth.names == ("x", "y")
    assert test.labels.tolist() == [1, 1]
    ordered = of("image-folder", "train", tmp_path, classes=["y", "x"], **options)
    assert ordered.labels[0] == 1  # files are sorted by folder, ids by the list


@pytest.mark.parametrize(("options", "message"), [
    ({"classes": ["x", "x"]}, "'x' is given twice"),
    ({"classes": ["x", "z"]}, "folder y is not one of the 2 classes: x, z"),
    ({"of": "train"}, "give both"),
    ({"limit": 0}, "at least 1"),
])  # fmt: skip
def test_options_of_image_folder(tmp_path: Path, options: dict[str, object], message: str) -> None:
    class_data.folder(tmp_path / "train", class_data.images(("x", "y"), 2))
    with pytest.raises((ConfigError, DataError), match=message):
        of("image-folder", "train", tmp_path, **options)


def test_what_a_folder_lacks(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither a folder train nor train.zip"):
        of("image-folder", "train", tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="no folders of classes"):
        of("image-folder", "train", tmp_path)
    (tmp_path / "train" / "a").mkdir()
    with pytest.raises(DataError, match=r"no image in any of the 1 folders"):
        of("image-folder", "train", tmp_path)
    class_data.folder(tmp_path / "train", class_data.images(("a",), 2))
    with pytest.raises(DataError, match="one class, a"):
        of("image-folder", "train", tmp_path)
    (tmp_path / "val.zip").write_bytes(b"PK no zip")
    with pytest.raises(DataError, match=r"val.zip: not a readable zip"):
        of("image-folder", "val", tmp_path)


def test_broken_entry_of_a_zip_is_named(tmp_path: Path) -> None:
    class_data.archive(
        tmp_path / "train.zip", {**class_data.images(("a", "b"), 2), "a/0009.png": b"no image"}
    )
    found = of("image-folder", "train", tmp_path)
    with pytest.raises(DataError, match=r"train.zip/a/0009.png: not a readable image"):
        [found[i] for i in range(len(found))]


def test_zip_of_several_depths_and_hidden_files(tmp_path: Path) -> None:
    files = class_data.images(("a", "b"), 1)
    hidden = {"__MACOSX/a/._0000.png": b"", "a/._0000.png": b"", "a/notes.txt": b""}
    class_data.archive(tmp_path / "train.zip", {**files, **hidden})
    assert len(of("image-folder", "train", tmp_path)) == 2
    class_data.archive(tmp_path / "val.zip", {**files, "deep/er/0000.png": b"", "x/y/z/0.png": b""})
    with pytest.raises(DataError, match="several depths"):
        of("image-folder", "val", tmp_path)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a single core
def test_zip_read_by_loader_processes(tmp_path: Path) -> None:
    class_data.archive(tmp_path / "train.zip", class_data.images(("a", "b"), 6))
    found = of("image-folder", "train", tmp_path)
    expected = torch.stack([found[i].image for i in range(12)])  # the file is open in this process already
    loader = torch.utils.data.DataLoader(found, batch_size=3, num_workers=2)
    assert torch.equal(torch.cat([images for images, _ in loader]), expected)


def test_limit_takes_of_every_class(tmp_path: Path) -> None:
    root = class_data.cifar_zips(tmp_path)
    some = of("cifar10", "train", root, limit=25)
    assert len(some) == 25
    assert some.counts().max() - some.counts().min() <= 1
    assert len(of("cifar10", "test", root, limit=1000)) == 30


def test_drawn_parts_do_not_depend_on_the_order() -> None:
    random = np.random.default_rng(0)
    keys = [f"{c}/{i}" for c in "ab" for i in range(20)]
    labels = np.repeat([0, 1], 20)
    shares = {"train": 0.75, "val": 0.25}
    chosen = {keys[i] for i in drawn(keys, labels, shares, "val")}
    order = random.permutation(40)
    mixed = [keys[i] for i in order]
    assert {mixed[i] for i in drawn(mixed, labels[order], shares, "val")} == chosen
    assert sorted(np.concatenate([drawn(keys, labels, shares, s) for s in shares])) == list(range(40))
    assert len(drawn(["x", "y"], np.array([0, 0]), {"train": 0.9, "val": 0.1}, "val")) == 1
    assert len(few(keys, labels, 7)) == 7


def test_same_sample_whatever_was_read_before(tmp_path: Path) -> None:
    root = class_data.cifar_zips(tmp_path)
    found = of("cifar10", "train", root).with_transform(training_transform(size=(32, 32), pad=4), seed=3)
    state = torch.get_rng_state()
    first = found[(1, 5)].image
    assert torch.equal(torch.get_rng_state(), state)
    _ = found[(0, 2)], torch.rand(3)
    assert torch.equal(found[(1, 5)].image, first)
    assert not torch.equal(found[(2, 5)].image, first)


@pytest.mark.parametrize(("size", "pad"), [((32, 32), 4), ((24, 40), 0), ((28, 28), 2), ((8, 8), 0)])
def test_padded_crop_is_a_part_of_the_padded_image(size: tuple[int, int], pad: int) -> None:
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    borders = [max(pad, most - 32) for most in size]
    grey = torch.tensor([round(255 * m) for m in MEAN], dtype=torch.uint8).view(3, 1, 1)
    padded = grey.expand(3, 32 + 2 * borders[0], 32 + 2 * borders[1]).clone()
    padded[:, borders[0] : borders[0] + 32, borders[1] : borders[1] + 32] = image
    parts = padded.unfold(1, size[0], 1).unfold(2, size[1], 1)  # (3, rows, columns, H, W): all crops
    rows, columns = set(), set()
    for _ in range(200):
        found = PaddedCrop(size, pad)(image)
        same = (parts == found[:, None, None]).flatten(3).all(3).all(0).nonzero()
        assert len(same) == 1
        rows.add(int(same[0, 0]))
        columns.add(int(same[0, 1]))
    assert rows == set(range(parts.shape[1]))
    assert columns == set(range(parts.shape[2]))


def test_transforms_normalise_and_crop() -> None:
    image = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)
    x, y = evaluation_transform(crop=(30, 20))(image, torch.tensor(7))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    assert torch.allclose(x, (image[:, 5:35, 20:40] / 255 - mean) / std, atol=1e-5)
    assert y == 7
    x, _ = evaluation_transform(short_side=20, crop=(20, 20))(image, torch.tensor(0))
    assert x.shape == (3, 20, 20)
    for more in ({"area": (0.1, 1.0)}, {"rand_augment": 9}, {"erase": 1.0}, {"resize": (30, 30)}):
        x, _ = training_transform(size=(24, 24), **more)(image, torch.tensor(0))
        assert x.shape == (3, 24, 24)
        assert x.dtype == torch.float32
    erased, _ = training_transform(size=(24, 24), erase=1.0)(image, torch.tensor(0))
    assert (erased == 0).all(0).sum() > 5


def test_truth_in_files() -> None:
    truth = data.Classes(names=("a", "b"))
    assert truth_from_json(truth_as_json(truth)) == truth


def test_one_class_only_is_an_error(tmp_path: Path) -> None:
    class_data.folder(tmp_path / "train", class_data.images(("a", "b"), 2))
    class_data.folder(tmp_path / "val", class_data.images(("b",), 2))
    with pytest.raises(DataError, match="all 2 images are of class b"):
        inspect(of("image-folder", "val", tmp_path), "val")
