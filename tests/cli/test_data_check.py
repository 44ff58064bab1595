"""`binarize data check`: what it prints, and each silent case that it has to name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_net
import yaml
from PIL import Image

from binarize.cli import run

SIZE = (32, 40)
MASK = np.resize(np.array([0, 1, 2, 2], dtype=np.uint8), SIZE)
DEPTH = np.linspace(500, 9500, SIZE[0] * SIZE[1]).reshape(SIZE).astype(np.uint16)


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def folders(root: Path, truth: np.ndarray = MASK, kind: str = "masks", count: int = 4) -> None:
    random = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for index in range(count):
            write(root / split / f"images/{index}.png", random.integers(0, 256, (*SIZE, 3)).astype(np.uint8))
            write(root / split / kind / f"{index}.png", truth)


def recipe(root: Path, options: dict[str, Any], **data: Any) -> str:
    values = small_net.values()
    values["data"] |= {"name": "folder", "root": ".", "options": options, **data}
    path = root / "r.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def checked(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> tuple[str, str]:
    """Output and errors, words apart by single blanks."""
    assert run(["data", "check", *arguments]) == status
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    return " ".join(printed.out.split()), " ".join(printed.err.split())


def test_what_masks_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders(tmp_path)
    write(tmp_path / "test/masks/0.png", np.full(SIZE, 255, dtype=np.uint8))
    given = recipe(tmp_path, {"classes": ["sky", "road", "car"]})
    out, err = checked(capsys, given)
    assert err == ""
    for text in ("train: 4 images, 32x40 (height x width)", "sky 25.0 % 25.0 % 25.0 %",
                 "car 50.0 % 50.0 % 50.0 %", "(ignored) - - 25.0 %", "all can be read"):  # fmt: skip
        assert text in out
    assert run(["data", "check", given, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["splits"]["test"] == {
        "images": 4,
        "sizes": {"32x40": 4},
        "valid": 0.75,
        "classes": {"sky": 0.25, "road": 0.25, "car": 0.5},
        "ignored": 0.25,
    }
    assert (found["warnings"], found["errors"]) == ([], [])


def test_what_depths_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = DEPTH.copy()
    truth[:8] = 0
    folders(tmp_path, truth, "depth")
    out, err = checked(capsys, recipe(tmp_path, {"max_depth": 10.0}))
    assert "train: depth 2.75 to 9.5 m, median 6.13 m; 75 % of the pixels count" in out
    assert err == ""


@pytest.mark.parametrize("name", [".", "folder", "drawn"])
def test_data_without_a_recipe(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folders(tmp_path / "folder", np.where(MASK == 0, 0, 255).astype(np.uint8))
    monkeypatch.setenv("BINARIZE_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path / "folder")
    options = ["--set", "data.options={classes: 2, labels: {0: 0, 255: 1}}"]
    given = {
        ".": ["."],
        "folder": ["folder", *options],
        "drawn": ["shapes", "--set", "data.options.length=4"],
    }
    out, _ = checked(capsys, *given[name])
    assert "4 images" in out
    assert "all can be read" in out


def drop(path: str) -> Callable[[Path], object]:
    return lambda root: (root / path).unlink()


def put(path: str, array: np.ndarray) -> Callable[[Path], object]:
    return lambda root: write(root / path, array)


ONES = np.ones(SIZE, dtype=np.uint8)
GREY = np.zeros((*SIZE, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("change", "message", "status"),
    [
        # of truths
        (lambda root: [put(f"val/masks/{i}.png", ONES)(root) for i in range(4)],
         "folder val: classes that train has occur nowhere: 0, 2. Their IoU cannot be measured.", 0),
        (lambda root: [put(f"train/masks/{i}.png", MASK % 2)(root) for i in range(4)],
         "1 of 3 classes occur nowhere: 2. The network cannot learn", 0),
        (lambda root: [put(f"train/masks/{i}.png", ONES * 255)(root) for i in range(4)],
         "folder train: not one pixel of 4 images has a truth: their values are 255", 2),
        (put("train/masks/2.png", ONES * 77), "train/masks/2.png: 1280 pixels have class id 77", 2),
        (put("train/masks/2.png", MASK[:16]), "2.png: 40x16 (width x height), but its image", 2),
        (lambda root: (drop("train/masks/2.png")(root), put("train/masks/2.jpg", MASK)(root)),
         "train/masks/2.jpg: a label mask in JPEG does not keep its class ids", 2),
        # of pairs
        (drop("val/masks/1.png"), "val/images: 1 of 4 images have no truth, first 1.png. Looked for 1 in", 2),
        (drop("val/images/1.png"), "val/masks: 1 of 4 truths have no image of their name in ", 0),
        (put("test/images/1.jpg", GREY), "test/images: 1.jpg and 1.png have one name", 2),
        (put("test/images/._1.png", GREY), "test/images: 1 hidden files are left out: ._1.png.", 0),
        (lambda root: (root / "val/images/0.png").write_bytes((root / "train/images/3.png").read_bytes()),
         "folder val: 1 of 4 images are in folder train too, first ", 0),
    ],
)  # fmt: skip
def test_silent_cases(
    change: Callable[[Path], object], message: str, status: int, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folders(tmp_path)
    change(tmp_path)
    given = recipe(tmp_path, {"classes": 3})
    _, err = checked(capsys, given, status=status)
    assert message in err
    assert run(["data", "check", given, "--json"]) == status
    found = json.loads(capsys.readouterr().out)
    assert any(message in text for text in found["errors" if status else "warnings"])


def test_masks_of_0_and_255(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders(tmp_path, MASK % 2 * 255)
    _, err = checked(capsys, recipe(tmp_path, {"classes": 2}), status=2)
    assert "hold class 0 only, and 255, which is ignored: there is nothing to learn" in err
    assert "`labels: {0: 0, 255: 1}`" in err


@pytest.mark.parametrize(("factor", "scale", "message", "status"), [
    (1.0, 1.0, "not one pixel of 4 images has a truth: .* set `scale: 1000`", 2),  # 1000 times
    (0.1, 1000.0, "like centimetres: set `scale: 100`", 0),
    (1.0, 10.0, "not one pixel", 2),
    (1.5, 1000.0, "of the depths do not count: .* depths from 0.001 to 10 m count", 0),
])  # fmt: skip
def test_depth_of_another_unit_or_range(
    factor: float, scale: float, message: str, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders(tmp_path, (DEPTH * factor).astype(np.uint16), "depth")
    _, err = checked(capsys, recipe(tmp_path, {"max_depth": 10.0, "scale": scale}), status=status)
    assert re.search(message, err), err


def test_sizes_that_the_network_cannot_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders(tmp_path)
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n"
        "from torch.nn import functional as F\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__()\n"
        "        self.conv = nn.Conv2d(3, num_classes, 3, padding=1)\n"
        "    def forward(self, x):\n"
        "        small = F.avg_pool2d(x, 16)\n"
        "        return self.conv(x + F.interpolate(small, scale_factor=16.0))\n"
    )
    values = yaml.safe_load(Path(recipe(tmp_path, {"classes": 3})).read_text())
    values["network"] = {"name": "nets.py:Net"}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(values))
    _, err = checked(capsys, str(tmp_path / "r.yaml"), status=2)
    assert "images of val (see data.evaluation) [32, 40] does not fit the network" in err
    assert "It takes [32, 32] and [32, 48]" in err
    resized = ["--set", "data.evaluation.resize=[32, 48]"]
    out, err = checked(capsys, str(tmp_path / "r.yaml"), *resized)
    assert "all can be read" in out


def test_a_crop_larger_than_the_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders(tmp_path)
    given = recipe(tmp_path, {"classes": 3}, augmentation={"size": [64, 64]})
    _, err = checked(capsys, given)
    assert "every image is smaller than the crop, data.augmentation.size [64, 64]: at most 32x40" in err


def test_folders_of_which_nothing_is_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, err = checked(capsys, str(tmp_path), status=2)
    assert "expected a folder with images, image... and masks, mask..." in err
