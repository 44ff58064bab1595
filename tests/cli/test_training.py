"""train, evaluate, recipes and data, from the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_net
import yaml
from last_threads import LEFT
from PIL import Image

from binarize import recipes
from binarize.cli import run
from binarize.data.reading import read_depth, read_image, read_labels


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(small_net.values(epochs=2)))
    return path


def test_train_then_evaluate(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "run")
    assert run(["train", str(recipe), "--out", out, "--set", "training.lr=1e-2", "--resume"]) == 0
    printed = capsys.readouterr().out
    assert "holds no run to continue" in printed
    assert "epoch 2/2  loss " in printed
    assert "\x1b" not in printed
    assert max(len(line) for line in printed.splitlines() if line.startswith("epoch")) <= 80
    assert run(["train", str(recipe), "--out", out, "--set", "training.lr=1e-2", "--resume"]) == 0
    assert "complete run of 2 epochs" in capsys.readouterr().out
    assert run(["evaluate", out, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert run(["evaluate", f"{out}/model.safetensors", "--split", "val", "--json"]) == 0
    on_val = json.loads(capsys.readouterr().out)
    assert on_val["miou"] == log[-1]["val"]["miou"]  # the file holds what was measured
    assert found["split"] == "test"
    assert run(["evaluate", out, "--flip", "--scales", "0.5,1"]) == 0
    table = capsys.readouterr().out
    assert "mean with mirror images and sizes x 0.5, 1" in table
    assert "background" in table
    assert max(map(len, table.splitlines())) <= 80


@pytest.mark.slow
def test_processes_share_an_evaluation(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    assert run(["train", str(recipe), "--out", out, "--set", "training.epochs=1"]) == 0
    capsys.readouterr()
    assert run(["evaluate", out, "--json"]) == 0
    one = json.loads(capsys.readouterr().out)
    program = tmp_path / "program.py"
    program.write_text(
        "import last_threads, sys, small_net\n"
        "last_threads.watch()\n"
        "from binarize.cli import run\n"
        "from binarize.training import evaluation as shared\n"
        "predict = shared.predict\n"
        "seen = []\n"
        "shared.predict = lambda m, x, **k: seen.append(len(x)) or predict(m, x, **k)\n"
        "status = run(['evaluate', sys.argv[1], '--json'])\n"
        "print(f'saw {sum(seen)} images', file=sys.stderr)\n"
        "sys.exit(status)\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            str(program),
            out,
        ],
        env={**os.environ, "PYTHONPATH": str(Path(small_net.__file__).parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count(f"{LEFT} 0") == 2, done.stderr[-3000:]
    printed = done.stdout[done.stdout.index("{") :]  # gloo of torch 2.9 prints a line of its own
    assert json.loads(printed) == one  # printed once, and every image counts once
    images = small_net.values()["data"]["options"]["length"]
    assert done.stderr.count(f"saw {images // 2} images") == 2


@pytest.mark.slow
def test_what_counts_and_times_a_trained_network_takes_its_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # an export takes 20 s; tests/runtime/test_onnx.py makes them
    monkeypatch.setattr("binarize.runtime.to_onnx", lambda model, size, **names: f"{size}".encode())
    values = small_net.values(epochs=1)
    values["network"] = {"encoder": "test_convnext", "options": {"width": 16}}
    values["data"]["augmentation"]["size"] = [32, 64]
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(values))
    out = str(tmp_path / "run")
    assert run(["train", str(tmp_path / "r.yaml"), "--out", out]) == 0
    assert run(["deploy", f"{out}/model.safetensors"]) == 0
    assert run(["export", out, "--onnx", str(tmp_path / "o.onnx")]) == 0
    assert (tmp_path / "o.onnx").read_text() == "(32, 64)"
    packed = f"{out}/model-packed.safetensors"
    capsys.readouterr()
    assert run(["bench", packed, "--against", "eager", "--rounds", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["shape"] == [1, 3, 32, 64]
    assert run(["summary", packed, "--input-size", "96", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["input_size"] == [3, 96, 96]
    assert run(["summary", packed, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["input_size"] == [3, 32, 64]
    assert run(["summary", "zoo:camvid-bnn", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["input_size"] == [3, 96, 128]


@pytest.mark.parametrize("task", ["segmentation", "depth"])
def test_predict(task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = small_net.values(epochs=1)
    values["data"]["options"]["task"] = task
    values["data"]["evaluation"]["resize"] = [24, 40]
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(values))
    assert run(["train", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "run")]) == 0
    (tmp_path / "in").mkdir()
    Image.new("RGB", (50, 30), "red").save(tmp_path / "in/a b.jpg")
    Image.new("L", (70, 9)).save(tmp_path / "in/grey.png")
    command = ["predict", str(tmp_path / "run"), str(tmp_path / "in"), str(tmp_path / "in/*.jpg")]
    assert run([*command, "--out", str(tmp_path / "out"), "--overlay", "--panel"]) == 0
    names = {p.name for p in (tmp_path / "out").iterdir()}
    kinds = ("", "-overlay", "-panel", *(["-colour"] if task == "depth" else []))
    assert names == {f"{stem}{kind}.png" for stem in ("a b", "grey") for kind in kinds}
    if task == "depth":
        found = read_depth(tmp_path / "out/a b.png", 1000.0)
        assert 0.001 <= found.min() <= found.max() <= 10.0
    else:
        found = read_labels(tmp_path / "out/a b.png")
        assert 0 <= found.min() <= found.max() <= 5
    assert found.shape == (30, 50)
    shown = read_image(tmp_path / "out/grey-panel.png")
    assert shown.shape[2] == 70 + 4 + 70
    expected = read_image(tmp_path / f"out/grey{'-colour' if task == 'depth' else ''}.png")
    if task == "depth":
        assert shown[:, -9:, 74:].equal(expected)  # below the names
    capsys.readouterr()
    assert run([*command, "--out", str(tmp_path / "out")]) == 2
    assert "exists already; replace it with --force" in capsys.readouterr().err
    before = (tmp_path / "in/grey.png").read_bytes()
    assert run([*command, "--out", str(tmp_path / "in"), "--force"]) == 2
    assert "grey.png is one of the images or truths" in capsys.readouterr().err
    assert (tmp_path / "in/grey.png").read_bytes() == before
    Image.new("L", (7, 9)).save(tmp_path / "in/grey-overlay.png")
    assert run([*command, "--out", str(tmp_path / "more"), "--overlay"]) == 2
    assert "grey-overlay.png would be written for two" in capsys.readouterr().err
    Image.new("L", (7, 9)).save(tmp_path / "grey.png")
    assert run([*command, str(tmp_path / "grey.png"), "--out", str(tmp_path / "more")]) == 2
    assert "would be written to the same files" in capsys.readouterr().err


def test_ctrl_c_saves_and_has_its_own_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    presses = iter([signal.SIGINT])

    def press(*_: Any) -> None:
        for number in presses:
            signal.raise_signal(number)

    monkeypatch.setattr(sys.modules["binarize.cli.train"].Screen, "show", press)
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(small_net.values(epochs=3)))
    assert run(["train", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "run")]) == 130
    assert "Continue with --resume" in capsys.readouterr().err
    assert (tmp_path / "run/state.safetensors").is_file()


def test_one_bad_image_leaves_no_file_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(small_net.values(epochs=1)))
    assert run(["train", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert run(["train", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "run"), "--resume"]) == 0
    assert "holds a complete run of 1 epoch." in capsys.readouterr().out
    for folder in ("in", "truth"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (32, 32), "red").save(tmp_path / "in/a.png")
    noise = Image.effect_noise((32, 32), 80)
    noise.save(tmp_path / "in/z.png")
    for image, size in (("a", 32), ("z", 16)):
        Image.new("L", (size, size)).save(tmp_path / f"truth/{image}.png")
    command = ["predict", str(tmp_path / "run"), str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    assert run([*command, "--panel", "--truth", str(tmp_path / "truth")]) == 2
    assert "truth/z.png: 16x16" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    whole = (tmp_path / "in/z.png").read_bytes()
    for bad in (b"", b"no picture", whole[: len(whole) // 2]):  # the last one has a good header
        (tmp_path / "in/z.png").write_bytes(bad)
        assert run(command) == 2
        assert "z.png: not a readable image" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
    (tmp_path / "in/z.png").write_bytes(whole)
    assert run(command) == 0  # without --force: nothing is in its way


@pytest.mark.parametrize("task", ["segmentation", "depth"])
def test_panels_hold_the_truth_and_further_networks(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = small_net.values(epochs=1)
    values["data"]["options"]["task"] = task
    for name, method in (("a", {"name": "bidense"}), ("b", None)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**values, "method": method}))
        assert run(["train", str(tmp_path / f"{name}.yaml"), "--out", str(tmp_path / name)]) == 0
    for folder in ("in", "truth"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (50, 30), "red").save(tmp_path / "in/x.jpg")
    truth = np.full((30, 50), 2, np.uint16 if task == "depth" else np.uint8)
    truth[:15] = 2500 if task == "depth" else 255
    Image.fromarray(truth).save(tmp_path / "truth/x.png")
    command = [
        "predict",
        str(tmp_path / "a"),
        str(tmp_path / "in"),
        "--out",
        str(tmp_path / "out"),
        "--panel",
    ]
    command += ["--with", str(tmp_path / "b"), "--truth", str(tmp_path / "truth")]
    assert run(command) == 0
    panel = read_image(tmp_path / "out/x-panel.png")
    parts = 4 * 50 + 3 * 4  # image, truth, bidense, float
    assert panel.shape[2] > parts if task == "depth" else panel.shape[2] == parts  # and a scale of colours
    head = 2 * 4 + 15  # gaps and letters of 12 pixels
    shown = panel[:, head : head + 30, 54:104]
    assert (panel.shape[1] > head + 30) == (task == "segmentation")  # a key of the classes
    halves = shown[:, :15].flatten(1).unique(dim=1), shown[:, 15:].flatten(1).unique(dim=1)
    assert [h.shape[1] for h in halves] == [1, 1]
    assert not halves[0].equal(halves[1])
    capsys.readouterr()
    assert run([*command, "--force", "--truth", str(tmp_path / "in/none")]) == 2
    assert "expected a folder" in capsys.readouterr().err
    assert run([*command[:-2], "--force", "--truth", str(tmp_path / "a")]) == 2
    assert "no file named x.*" in capsys.readouterr().err
    (tmp_path / "bts").mkdir()
    Image.new("RGB", (50, 30), "red").save(tmp_path / "bts/rgb_1.jpg")
    Image.fromarray(truth).save(tmp_path / "bts/sync_depth_1.png")
    beside = [str(tmp_path / "bts/rgb_1.jpg"), "--panel", "--truth", str(tmp_path / "bts")]
    assert run(["predict", str(tmp_path / "a"), *beside, "--out", str(tmp_path / "out")]) == 0
    assert read_image(tmp_path / "out/rgb_1-panel.png")[:, head : head + 30, 54:104].equal(shown)
    assert run(["predict", str(tmp_path / "a"), str(tmp_path / "in"), "--truth", str(tmp_path / "in")]) == 2
    assert "add --panel" in capsys.readouterr().err


def test_images_that_are_too_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = small_net.values(epochs=1)
    values["network"] = {"encoder": "test_convnext", "options": {"width": 8}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({**values, "method": None}))
    assert run(["train", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "run")]) == 0
    Image.new("RGB", (3, 2)).save(tmp_path / "x.png")
    capsys.readouterr()
    command = ["predict", str(tmp_path / "run"), str(tmp_path / "x.png"), "--out", str(tmp_path / "out")]
    assert run(command) == 0  # shown larger
    with Image.open(tmp_path / "out" / "x.png") as predicted:
        assert predicted.size == (3, 2)
    capsys.readouterr()
    assert run(["evaluate", str(tmp_path / "run"), "--scales", "0.1"]) == 2
    assert "Take larger images or scales" in " ".join(capsys.readouterr().err.split())


def test_floor(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for task, name in (("segmentation", "pixel_accuracy"), ("depth", "abs_rel")):
        assert run(["data", "floor", str(recipe), "--set", f"data.options.task={task}", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found.keys() == {"constant", "by_position"}
        assert 0 < found["constant"][name] < 1
    assert run(["data", "floor", str(recipe)]) == 0
    assert "by position" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "shapes/tiny-bidens"], "did you mean 'shapes/tiny-bidense'"),
        (["train", "zzz"], "names is near; `binarize recipes` lists them."),
        (["train", "{recipe}", "--set", "training.lrr=1"], "did you mean lr?"),
        (["train", "{recipe}", "--set", "method.name=bidens"], "did you mean 'bidense'"),
        (
            ["train", "{recipe}", "--set", "method.name=bidens", "--set", "data.train=trian"],
            "did you mean 'train'",
        ),
        (
            ["train", "{recipe}", "--set", "network.name=uprnet"],
            "--set network.name: unknown network 'uprnet'",
        ),
        (["train", "{recipe}", "--set", "data.options.tsk=depth"], "did you mean 'task'"),
        (
            ["train", "{recipe}", "--set", "data.options.length=many"],
            "length: input should be a valid integer",
        ),
        (["train", "{recipe}", "--set", "data.test=tset"], "did you mean 'test'"),
        (["train", "{recipe}", "--set", "about=2001-99-99"], "is not a YAML value"),
        (["train", "{recipe}", "--set", "training.start_from=nothing.pth"], "nothing.pth"),
        (["train", "{recipe}", "--out", "/proc/nothing/run"], "cannot make the folder"),
        (["evaluate", "nothing.safetensors"], "no such file"),
        (["predict", "nothing.safetensors", "{recipe}"], "no such file"),
        (["predict", "nothing.safetensors", "*.gif"], "no file matches"),
        (["compare"], "--recipe-set"),
        (["compare", "nothing"], "no such folder"),
        (["compare", "--recipe-set", "camvit"], "did you mean 'camvid'"),
        (["compare", "--recipe-set", "shapes", "--seeds", "0,x"], "or different whole numbers"),
        (["compare", "nothing", "--set", "training.lr=1"], "runs are as they are"),
        (["evaluate", "{recipe}"], "small.yaml"),
        (["evaluate", "{recipe}", "--scales", "0,1"], "expected numbers from 0.1 to 10"),
        (["data", "check", "{recipe}", "--set", "data.name=camvid"], "camvid"),
    ],
)
def test_bad_input_is_one_message_and_nothing_is_written(
    arguments: list[str],
    message: str,
    recipe: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(recipe.parent)
    monkeypatch.delenv("BINARIZE_DATA", raising=False)
    assert run([a.format(recipe=recipe) for a in arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    before = f"recipe   {recipe}\n"  # what `train` says first
    assert captured.out in ("", before)
    assert list(recipe.parent.rglob("*")) == [recipe]


def test_lists(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipes"]) == 0
    printed = capsys.readouterr().out
    listed = [line.split()[0] for line in printed.splitlines() if line.startswith("  ")]
    assert listed == recipes.names()
    assert printed.count("KITTI as in Table 3 of BiDense") == 1  # for all rows of the table
    assert "  ade20k/convnext_tiny-bidense-ablation2  row 2 of Table 4 of BiDense\n" in printed
    assert run(["data", "list"]) == 0
    assert max(map(len, (printed + capsys.readouterr().out).splitlines())) <= 80
    assert run(["recipes", "show", "shapes/tiny-bidense", "--set", "training.epochs=7"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["training"]["epochs"] == 7
    assert run(["data", "list", "--json"]) == 0
    assert "camvid" in capsys.readouterr().out


def test_data_check_names_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "val", "test"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{split}.png")
        Image.new("L", (8, 8), 12 if split == "val" else 3).save(tmp_path / f"{split}-mask.png")
        (tmp_path / f"{split}.txt").write_text(f"{split}.png {split}-mask.png\n")
    values = small_net.values()
    values["data"] |= {"name": "camvid", "options": {}, "root": str(tmp_path)}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(values))
    assert run(["data", "check", str(tmp_path / "r.yaml")]) == 2
    assert "val-mask.png: 64 pixels have class id 12" in capsys.readouterr().err
    Image.new("L", (8, 8), 0).save(tmp_path / "val-mask.png")
    assert run(["data", "check", str(tmp_path / "r.yaml")]) == 0
    assert "all can be read" in capsys.readouterr().out
