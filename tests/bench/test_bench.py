"""`binarize bench` and `binarize doctor`: that they measure what they say, not how fast it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import binarize
from binarize.bench import Variant, bench
from binarize.cli import run
from binarize.files import create_timm


def test_variants_alternate() -> None:
    order: list[str] = []
    variants = [Variant(name, nn.Identity(), lambda name=name: order.append(name)) for name in "abc"]
    found = bench(variants, (1,), rounds=2, warmup=1)
    assert "".join(order) == "abc" + "abc" * 2 + "a"  # the last one is broken down
    assert {name: len(times) for name, times in found.times.items()} == dict.fromkeys("abc", 2)


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        command = ["bench", "test_resnet", "--rounds", "2", "--size", "64", "--against", "eager,bf16"]
        assert run([*command, "--out", str(tmp_path / "b")]) == 0
        assert max(map(len, capsys.readouterr().out.splitlines()[1:])) <= 80
        found = json.loads((tmp_path / "b.json").read_text())
        assert [v["name"] for v in found["variants"]] == ["packed", "eager", "bf16"]
        assert found["shape"] == [1, 3, 64, 64]
        assert any(kind.startswith("packed ") for kind in found["kinds_ms"])
        with Image.open(tmp_path / "b.png") as picture:
            assert picture.size[0] > 500
        file = binarize.save(
            binarize.apply(create_timm("test_resnet"), "reactnet"), tmp_path / "m.safetensors", packed=True
        )
        assert run(["bench", str(file), "--rounds", "1", "--against", "channels_last", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["variants"][0]["rounds"] == 1
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["test_resnet", "--against", "eagre"], "did you mean 'eager'"),
        (["test_resnet", "--size", "x"], "480x640"),
        (["test_resnt"], "test_resnet"),
    ],
)
def test_bad_requests(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        assert run(["bench", *arguments]) == 2
        assert message in capsys.readouterr().err
    finally:
        torch.set_num_threads(threads)


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    assert "kernels" in capsys.readouterr().out
    assert run(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["torch"].startswith(torch.__version__)
