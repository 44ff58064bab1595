"""The device that a command runs on, by its option --device."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import small_net
import torch
import yaml
from PIL import Image

from binarize.cli import run
from binarize.errors import ConfigError
from binarize.training import environment


@pytest.fixture
def _two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)


@pytest.mark.usefixtures("_two_gpus")
def test_the_option_wins_over_the_environment_and_leaves_it_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ACCELERATE_TORCH_DEVICE", raising=False)
    assert environment.devices() == ["cpu", "cuda:0", "cuda:1"]
    before = dict(os.environ)
    assert environment.device() == torch.device("cpu")  # ACCELERATE_USE_CPU=1
    for name in ("cpu", "cuda", "cuda:1"):
        with environment.on_device(name):
            assert environment.on_cpu() == (name == "cpu")
            assert environment.device() == torch.device(name)
    assert dict(os.environ) == before


@pytest.mark.usefixtures("_two_gpus")
def test_devices_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cuda:2", "mps", "gpu", ""):
        message = rf"--device {name}: there is no such device here; there is cpu, cuda:0, cuda:1\."
        with pytest.raises(ConfigError, match=message), environment.on_device(name):
            pass
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="each takes a device of its own; give cuda"):
        environment.on_device("cuda:1").__enter__()


def test_every_command_of_a_run_takes_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "r.yaml", str(tmp_path / "run")
    path.write_text(yaml.safe_dump(small_net.values(epochs=1)))
    Image.new("RGB", (32, 32)).save(tmp_path / "x.png")
    commands = [
        ["train", str(path), "--out", out],
        ["evaluate", out],
        ["predict", out, str(tmp_path / "x.png"), "--out", str(tmp_path / "made")],
        ["compare", out],
    ]
    for command in commands:
        assert run([*command, "--device", "xpu:7"]) == 2
        assert "--device xpu:7: there is no such device here; there is cpu" in capsys.readouterr().err
        assert run([*command, "--device", "cpu"]) == 0, capsys.readouterr().err
