"""`binarize init`: from folders to a recipe that trains at once, and the whole way of an own network."""

from __future__ import annotations

import json
import os
import shlex
from collections import Counter
from pathlib import Path

import numpy as np
import own_nets
import pytest
import yaml
from PIL import Image

import binarize
from binarize import recipes
from binarize.cli import run
from binarize.training.starter import epochs, one_aspect, training_size


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def scene(seed: int, size: tuple[int, int] = (48, 64)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image of a bright box, its mask (0, 1), and its depth in millimetres."""
    random = np.random.default_rng(seed)
    mask = np.zeros(size, dtype=np.uint8)
    top, left = random.integers(0, size[0] // 2), random.integers(0, size[1] // 2)
    mask[top : top + size[0] // 2, left : left + size[1] // 2] = 1
    image = random.integers(0, 90, (*size, 3)) + 150 * mask[..., None]
    return image.astype(np.uint8), mask, np.where(mask, 2000, 7000).astype(np.uint16)


def folders(root: Path, count: int = 10, *, kind: str = "masks", scale: int = 1, **names: str) -> None:
    for index in range(count):
        image, mask, depth = scene(index)
        write(root / f"images/{index:03}.jpg", image)
        truth = mask * np.uint8(scale) if kind == "masks" else depth
        write(root / f"{kind}/{names.get('name', '{}').format(f'{index:03}')}.png", truth)


def test_a_recipe_says_what_was_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders(tmp_path / "data", name="{}_mask", scale=255)
    (tmp_path / "data/classes.txt").write_text("nothing\nbox\n")
    out = tmp_path / "own.yaml"
    command = ["init", "--images", f"{tmp_path}/data/images", "--masks", f"{tmp_path}/data/masks", "--out"]
    assert run([*command, str(out)]) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    for text in (
        "10, 48x64",
        "{}_mask for {}",
        "2: nothing, box",
        "train 8, val 1, test 1",
        "Next: binarize data",
    ):
        assert text in printed
    text = out.read_text()
    values = yaml.safe_load(text)
    assert values["data"]["root"] == "data"  # relative to the recipe
    assert values["data"]["options"] | {"palette": None} == {
        "images": "images",
        "truths": "masks",
        "truth_name": "{}_mask",
        "shares": {"train": 0.8, "val": 0.1, "test": 0.1},
        "classes": {0: "nothing", 255: "box"},
        "ignored": [],
        "palette": None,
    }
    assert max(map(len, text.splitlines())) <= 110
    assert text.count("#") >= 8
    recipe = recipes.load(out)
    assert (recipe.network.title, recipe.method is not None) == ("upernet on convnext_atto", True)
    before = text
    assert run([*command, str(out)]) == 2
    assert "exists already; replace it with --force" in capsys.readouterr().err
    assert run([*command, str(out), "--force", "--method", "none", "--labels", "0=a,255=b"]) == 0
    assert out.read_text() != before
    assert recipes.load(out).method is None
    assert recipes.load(out).data.options["classes"] == {0: "a", 255: "b"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--masks", "{d}/masks", "--depth", "{d}/masks"], "one kind of truth"),
        ([], "--masks DIR or --depth DIR"),
        (["--masks", "{d}/nothing"], "no such folder"),
        (["--depth", "{d}/masks"], "a depth map is a 16-bit grey image"),
        (["--masks", "{d}/masks", "--scale", "3"], "--scale is for --depth"),
        (["--masks", "{d}/masks", "--method", "bidens"], "did you mean 'bidense'"),
        (["--masks", "{d}/masks", "--network", "upernt:resnet18"], "did you mean 'upernet'"),
        (["--masks", "{d}/masks", "--network", "timm:resnet10t"], "classifier of whole images"),
        (["--masks", "{d}/masks", "--labels", "a"], "at least two classes"),
        (["--masks", "{d}/masks", "--labels", "5=a,6=b"], "values 5, 6, but the masks hold 2 values: 0, 1"),
        (["--masks", "{d}/masks", "--labels", "names.txt"], "--labels names.txt: no such file."),
        (["--masks", "{d}/mask"], "no such folder; expected the truth. Did you mean 'd/masks'?"),
        (["--masks", "{d}/masks", "--out", "{d}/r.txt"], "expected a name that ends in .yaml"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_written(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folders(tmp_path / "d", 3)
    monkeypatch.chdir(tmp_path)
    assert run(["init", "--images", "d/images", *(a.format(d="d") for a in arguments)]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed
    assert not list(tmp_path.rglob("*.yaml"))
    assert not list(tmp_path.rglob("r.txt"))


def test_a_depth_at_which_nothing_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders(tmp_path / "d", 3, kind="depth")
    out = tmp_path / "r.yaml"
    given = ["--images", f"{tmp_path}/d/images", "--depth", f"{tmp_path}/d/depth", "--out", str(out)]
    assert run(["init", *given, "--max-depth", "0.5"]) == 2
    assert "no depth counts: they are 2 to 7 m (scale 1000)" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(("sizes", "expected"), [
    ([(360, 480)], (96, 128)), ([(1024, 2048)], (96, 192)), ([(1080, 1920)], (96, 160)),
    ([(500, 500), (400, 640)], (128, 128)), ([(64, 64)], (64, 64)), ([(70, 100), (64, 97)], (64, 96)),
    ([(20, 20)], (128, 128)), ([(375, 1242)], (64, 224)),
    ([(48, 48)], (64, 64)), ([(40, 80)], (32, 64)), ([(60, 90), (60, 90), (33, 40)], (64, 96)),
])  # fmt: skip
def test_sizes_are_multiples_of_32_and_small(sizes: list[tuple[int, int]], expected: tuple[int, int]) -> None:
    found = training_size(Counter(sizes))
    assert found == expected
    assert all(side % 32 == 0 for side in found)
    assert one_aspect(sizes, sizes[0]) == (len(sizes) == 1)


def test_things_are_as_large_in_training_as_in_predictions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders(tmp_path / "d")  # 48x64: cut down to 32x64 they would be larger in crops than in whole images
    out = tmp_path / "r.yaml"
    given = ["--images", f"{tmp_path}/d/images", "--masks", f"{tmp_path}/d/masks", "--out", str(out)]
    assert run(["init", *given]) == 0, capsys.readouterr().err
    data = recipes.load(out).data
    assert data.augmentation.size == data.augmentation.resize == data.evaluation.resize == (64, 64)


def test_a_path_with_spaces_can_be_copied_from_what_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders(tmp_path / "my data")
    out = tmp_path / "my recipe.yaml"
    data = ["--images", str(tmp_path / "my data/images"), "--masks", str(tmp_path / "my data/masks")]
    assert run(["init", *data, "--out", str(out)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert shlex.split(printed[-2].partition(":")[2]) == ["binarize", "data", "check", str(out)]
    assert shlex.split(printed[-1]) == ["binarize", "train", str(out)]
    comments = [line.strip() for line in out.read_text().splitlines() if line.strip().startswith("#")]
    assert all(any(map(str.isalpha, comment)) for comment in comments)  # not "# ."


def real(kind: str, root: Path) -> list[str]:
    """Folders for `init`: real images if they are here, else drawn ones; fewer of them, by links."""
    base = os.environ.get("BINARIZE_DATA")
    names = {"masks": ("camvid/images", "camvid/masks"), "depth": ("nyuv2/official_splits",) * 2}[kind]
    if base and all((Path(base) / name).is_dir() for name in names):
        sources = [Path(base) / name for name in names]
        if kind == "masks":
            for source, part in zip(sources, ("images", "masks"), strict=True):
                for split, count in (("train", 16), ("val", 4), ("test", 4)):
                    (root / part / split).mkdir(parents=True)
                    for file in sorted((source / split).iterdir())[:count]:
                        (root / part / split / file.name).symlink_to(file)
            return ["--images", f"{root}/images", "--masks", f"{root}/masks"]
        for form in ("rgb_*.*", "sync_depth_*.*"):
            for file in sorted(sources[0].glob(f"train/*/{form}"))[:24]:
                root.mkdir(parents=True, exist_ok=True)
                (root / file.name).symlink_to(file)
        return ["--images", str(root), "--depth", str(root)]
    folders(root, 24, kind=kind)
    return ["--images", f"{root}/images", f"--{kind}", f"{root}/{kind}"]


@pytest.mark.parametrize(
    ("kind", "net", "figure"), [("masks", "unet", "miou"), ("depth", "Depth", "abs_rel")]
)
def test_an_own_network_from_nothing_to_a_deployed_file_in_six_commands(
    kind: str, net: str, figure: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    own_nets.write(tmp_path)
    given = real(kind, tmp_path / "data")
    picture = next(p for p in sorted((tmp_path / "data").rglob("*.jpg")))
    commands = [
        ["init", *given, "--network", f"nets.py:{net}?width=4"],
        ["data", "check", "recipe.yaml"],
        ["train", "recipe.yaml", "--set", "training.epochs=2"],
        ["evaluate", "runs/recipe", "--json"],
        ["predict", "runs/recipe", str(picture), "--out", "made"],
        ["deploy", "runs/recipe", "--out", "packed.safetensors"],
    ]
    for command in commands:
        assert run(command) == 0, (command, capsys.readouterr().err)
        printed = capsys.readouterr()
        if command[0] == "evaluate":
            assert 0 <= json.loads(printed.out)[figure] < float("inf")
    assert "nets.py:" in (tmp_path / "recipe.yaml").read_text()
    with Image.open(tmp_path / f"made/{picture.stem}.png") as made, Image.open(picture) as seen:
        assert made.size == seen.size
    assert run(["evaluate", "packed.safetensors", "--json"]) == 0, capsys.readouterr().err
    assert (tmp_path / "packed.safetensors").stat().st_size < (
        tmp_path / "runs/recipe/model.safetensors"
    ).stat().st_size


VALUES = {"values": [0, 3, 7], "colours": [[0, 0, 0], [200, 30, 0], [0, 30, 200]]}


@pytest.mark.parametrize("kind", VALUES)
def test_masks_of_values_or_colours_by_a_list_from_init_to_predictions(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    own_nets.write(tmp_path)
    table = np.array(VALUES[kind], dtype=np.uint8)
    for index in range(6):
        image, mask, _ = scene(index, (32, 32))
        write(tmp_path / f"d/images/{index}.jpg", image)
        mask[:8] = 2
        write(tmp_path / f"d/masks/{index}.png", table[mask])
    for split, indices in (("train", "0123"), ("val", "4"), ("test", "5")):
        lines = (f"images/{i}.jpg masks/{i}.png\n" for i in indices)
        (tmp_path / f"d/{split}.txt").write_text("".join(lines))
    commands = [
        ["init", "--list", "d/train.txt", "--network", "nets.py:unet?width=4"],
        ["data", "check", "recipe.yaml"],
        ["train", "recipe.yaml", "--set", "training.epochs=1"],
        ["evaluate", "runs/recipe", "--json"],
        ["deploy", "runs/recipe", "--out", "packed.safetensors"],
        ["evaluate", "packed.safetensors", "--json"],
        ["predict", "packed.safetensors", "d/images/5.jpg", "--out", "made", "--panel", "--truth", "d/masks"],
        ["compare", "runs/recipe"],
    ]
    printed = {}
    for command in commands:
        assert run(command) == 0, (command, capsys.readouterr().err)
        printed[command[0]] = capsys.readouterr().out
    options = recipes.load(tmp_path / "recipe.yaml").data.options
    names = [f"class {v}" for v in (VALUES[kind] if kind == "values" else range(3))]
    if kind == "values":
        assert options["classes"] == dict(zip(VALUES[kind], names, strict=True))
    else:  # in the order of their numbers
        assert options["colours"] == dict(zip(names, sorted(VALUES[kind]), strict=True))
        table = table[[0, 2, 1]]
    assert options["lists"] == "{split}.txt"
    assert "train 4, val 1, test 1" in printed["init"]
    assert all(name in printed["data"] for name in names)
    assert list(json.loads(printed["evaluate"])["class_iou"]) == names
    with Image.open(tmp_path / "made/5.png") as made:
        held = np.asarray(made).reshape(32 * 32, -1)
    assert {tuple(v) for v in held.tolist()} <= {tuple(np.atleast_1d(v).tolist()) for v in table}
    seen = binarize.predict("packed.safetensors", "d/images/5.jpg")
    assert (seen.names, len(seen.values)) == (tuple(names), 3)
    third = (held == np.atleast_1d(table[2])).all(1).reshape(32, 32)
    assert np.array_equal(np.asarray(seen.labels) == 2, third)


def test_the_number_of_epochs_follows_the_images() -> None:
    from types import SimpleNamespace
    from typing import Any

    def of(count: int) -> tuple[int, int]:
        found: Any = SimpleNamespace(images={"train": count}, roles={"train": "train"})
        return epochs(found)

    assert of(1) == (200, 1)
    assert of(5) == (200, 4)
    assert of(367) == (36, 8)
    assert of(100_000) == (10, 8)
    assert of(15) == (200, 8)
