"""What is doubtful about data reaches the user: once, on stderr, from the first process."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_net
import timm
import torch
import yaml
from PIL import Image

from binarize.cli import run
from binarize.errors import BinarizeWarning, warn

MASK = np.resize(np.array([0, 1, 2], dtype=np.uint8), (32, 32))


def recipe(root: Path, truth: np.ndarray, options: dict[str, Any], kind: str = "masks") -> str:
    random = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for index in range(4):
            image = random.integers(0, 256, (*truth.shape, 3)).astype(np.uint8)
            for name, array in (("images", image), (kind, truth)):
                path = root / split / name / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    values = small_net.values(epochs=2, batch=4)
    values["data"] |= {"name": "folder", "root": str(root), "options": options}
    path = root / "r.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def test_check_train_and_evaluate_warn_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = recipe(tmp_path, MASK, {"classes": 4})
    Image.fromarray(MASK).save(tmp_path / "train/masks/alone.png")
    assert run(["data", "check", given]) == 0
    checked = capsys.readouterr()
    assert "all can be read" in checked.out
    alone = "train/masks: 1 of 5 truths have no image"
    expected = [[alone, "1 of 4 classes occur nowhere: 3. The"], [alone, "1 of 4 classes were in no truth"]]
    out = str(tmp_path / "run")
    assert run(["train", given, "--out", out]) == 0
    trained = capsys.readouterr()
    for text, parts in zip((checked.err, trained.err), expected, strict=True):
        lines = [line for line in text.splitlines() if line]  # rich 13 leaves an empty one for its bar
        assert len(lines) == 2, lines
        assert all(
            line.startswith("Warning: ") and part in line for line, part in zip(lines, parts, strict=True)
        )
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(MASK).save(tmp_path / "test/masks/2.png", exif=exif)
    assert run(["evaluate", out]) == 0
    assert capsys.readouterr().err.count("Warning: folder test: the EXIF tags of 1 of 4 images") == 1


@pytest.mark.parametrize(
    ("truth", "options", "kind", "message"),
    [
        (MASK * 0 + 255, {"classes": 3}, "masks", "values are 255, all of which are ignored"),
        (MASK % 2 * 255, {"classes": 2}, "masks", "`labels: {0: 0, 255: 1}`"),
        (MASK.astype(np.uint16) + 4000, {"max_depth": 10.0, "scale": 1.0}, "depth", "set `scale: 1000`"),
    ],
)
def test_data_without_a_truth_is_an_error_everywhere(
    truth: np.ndarray,
    options: dict[str, Any],
    kind: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = recipe(tmp_path, truth, options, kind)
    for command in (["data", "check", given], ["train", given, "--out", str(tmp_path / "run")]):
        assert run(command) == 2
        printed = capsys.readouterr()
        assert message in printed.err
        assert "Traceback" not in printed.err
    assert not (tmp_path / "run").exists()


def test_a_run_with_labels_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = recipe(tmp_path, MASK % 2 * 255, {"classes": 2, "labels": {0: 0, 255: 1}})
    out = str(tmp_path / "run")
    assert run(["train", given, "--out", out]) == 0
    assert run(["train", given, "--out", out, "--resume"]) == 0  # the file says "255", the recipe 255
    assert "complete run of 2 epochs" in capsys.readouterr().out
    assert run(["evaluate", out]) == 0
    assert "class 1" in capsys.readouterr().out


def test_weights_that_a_run_starts_from_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = recipe(tmp_path, MASK, {"classes": 3})
    whole = small_net.Small(3, None)
    torch.save({"model_state_dict": whole.state_dict(), "epoch": torch.tensor(1)}, tmp_path / "w.pth")
    torch.save({f"backbone.{k}": v for k, v in whole.encoder.state_dict().items()}, tmp_path / "e.pth")
    total, own = len(whole.state_dict()), len(whole.encoder.state_dict())
    train = ["train", given, "--set", "training.epochs=1", "--out"]
    assert run([*train, str(tmp_path / "a"), "--set", f"training.start_from={tmp_path / 'w.pth'}"]) == 0
    assert f"w.pth: {total} of {total} tensors, entry 'model_state_dict'" in capsys.readouterr().out
    assert run([*train, str(tmp_path / "b"), "--set", f"training.start_from={tmp_path / 'e.pth'}"]) == 0
    printed = capsys.readouterr()
    assert (
        f"fits the encoder alone ({own} of {total} tensors, prefix 'backbone.'; encoder only)" in printed.err
    )
    assert printed.err.count("Warning") == 1


def test_convert_says_what_it_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = timm.create_model("test_resnet").state_dict()
    torch.save({"net": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "w.pth")
    command = ["convert", "test_resnet", "--checkpoint", str(tmp_path / "w.pth"), "--dry-run"]
    assert run(command) == 0
    assert f"{len(state)} of {len(state)} tensors, entry 'net', prefix 'module.'" in capsys.readouterr().out


def test_only_the_first_process_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(BinarizeWarning, match="x"):
        warn("x")
    monkeypatch.setenv("RANK", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn("x")
