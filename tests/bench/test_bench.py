"""`binarize bench` and `binarize doctor`: that they measure what they say, not how fast it is."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import binarize
from binarize.bench import Variant, bench
from binarize.cli import run
from binarize.files import create_timm
from binarize.native.library import available


def test_variants_take_turns() -> None:
    order: list[str] = []
    variants = [Variant(name, nn.Identity(), lambda name=name: order.append(name)) for name in "abc"]
    found = bench(variants, (1,), rounds=2, passes=1, warmup=1)
    assert "".join(order) == "abc" + "abc" * 2 + "a"  # the last one is broken down
    assert {name: len(times) for name, times in found.times.items()} == dict.fromkeys("abc", 2)
    order.clear()
    found = bench(variants[:2], (1,), rounds=2, passes=3, warmup=0)
    assert "".join(order) == "aaabbb" * 2 + "aaa"
    assert found.as_dict()["passes_of_a_turn"] == 3
    assert [v["passes"] for v in found.as_dict()["variants"]] == [6, 6]
    assert bench(variants[:1], (1,), rounds=1, warmup=0).passes == 20  # of nothing, 50 ms are more
    wait = Variant("slow", nn.Identity(), lambda: time.sleep(0.06))
    assert bench([wait], (1,), rounds=1, warmup=0).passes == 1


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
        assert (found["peak_gmacs_per_s"] is not None) is available()
        assert found["kinds_gmacs_per_s"].keys() <= found["kinds_ms"].keys()
        with Image.open(tmp_path / "b.png") as picture:
            assert picture.size[0] > 500
        file = binarize.save(
            binarize.apply(create_timm("test_resnet"), "reactnet"), tmp_path / "m.safetensors", packed=True
        )
        assert (
            run(
                ["bench", str(file), "--rounds", "1", "--passes", "2", "--against", "channels_last", "--json"]
            )
            == 0
        )
        assert json.loads(capsys.readouterr().out)["variants"][0]["passes"] == 2
    finally:
        torch.set_num_threads(threads)


class Parts(nn.Module):
    """A 3x3 convolution, a transposed one and a linear layer, all to become binary, and a float 1x1."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=4)
        self.b = nn.ConvTranspose2d(12, 20, 2, stride=2)
        self.c = nn.Linear(20, 7)
        self.d = nn.Conv2d(7, 9, 3, padding=1)
        self.head = nn.Conv2d(9, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.c(self.b(self.a(input=x)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.head(self.d(y))


def test_multiply_accumulates_of_one_bit() -> None:
    model = binarize.apply(
        Parts(),
        "bnn",
        policy=binarize.Policy(first=0, last=1),
        example_inputs=torch.rand(2, 8, 16, 16),
    )
    packed = binarize.deploy(model)
    x = torch.rand(2, 8, 16, 16)
    found = bench([Variant("packed", packed, lambda: packed(x))], x.shape, rounds=1)
    wanted = {
        "packed grouped 3x3": 2 * 8 * 8 * 12 * (8 // 4) * 9,
        "packed 2x2": 2 * 8 * 8 * 12 * 20 * 4,
        "packed linear": 2 * 16 * 16 * 20 * 7,
        "packed 3x3 with 1x1 Conv2d": 2 * 16 * 16 * 7 * 9 * 9,
    }
    if not available():
        wanted["packed 3x3"] = wanted.pop("packed 3x3 with 1x1 Conv2d")
    assert found.macs == wanted
    assert found.as_dict()["binary_gmacs"] == sum(wanted.values()) / 1e9
    for kind, rate in found.rates().items():
        assert rate == pytest.approx(wanted[kind] / found.kinds[kind] * 1e3)
    if available():
        assert found.peak is not None
        assert found.peak > 1e9


def test_images_of_one_channel(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        command = [
            "bench",
            "test_resnet?in_chans=1",
            "--rounds",
            "1",
            "--passes",
            "1",
            "--size",
            "32",
            "--json",
        ]
        assert run([*command, "--against", "eager,eager"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["shape"] == [1, 1, 32, 32]
        assert [v["passes"] for v in found["variants"]] == [1, 1]
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["test_resnet", "--size", "4,32,32"], "takes 3 channels"),
        (["test_resnet", "--threads", "99999"], "1<=x<=1024"),
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
