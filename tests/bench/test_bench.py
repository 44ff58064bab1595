"""`binarize bench` and `binarize doctor`: that they measure what they say, not how fast it is."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from program_nets import Net, pair, plain
from torch import Tensor, nn

import binarize
from binarize.bench import Bench, Variant, advice, bench, slower_than
from binarize.cli import run
from binarize.files import create_timm
from binarize.native import library
from binarize.native.library import available, features
from binarize.runtime import PackedLayer, PackedSpec, QuantizerSpec, RuntimeOptions


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


@pytest.mark.slow
def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        command = [
            "bench",
            "test_resnet",
            "--rounds",
            "2",
            "--size",
            "64",
            "--against",
            "eager",
            "--against",
            "bf16",
        ]
        assert run([*command, "--out", str(tmp_path / "b")]) == 0
        assert max(map(len, capsys.readouterr().out.splitlines()[1:])) <= 80
        found = json.loads((tmp_path / "b.json").read_text())
        assert [v["name"] for v in found["variants"]] == ["packed", "eager", "bf16"]
        assert found["shape"] == [1, 3, 64, 64]
        assert any(kind.startswith("packed ") for kind in found["kinds_ms"])
        assert found["parts"] == ("steps" if available() else "modules")
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
        "packed 3x3": 2 * 16 * 16 * 7 * 9 * 9,
    }
    if not available():
        wanted["packed 3x3"] = wanted.pop("packed 3x3")
    assert found.macs == wanted
    assert found.as_dict()["binary_gmacs"] == sum(wanted.values()) / 1e9
    for kind, rate in found.rates().items():
        assert rate == pytest.approx(wanted[kind] / found.kinds[kind] * 1e3)
    if available():
        assert found.peak is not None
        assert found.peak > 1e9


@pytest.mark.skipif(not available(), reason="needs the kernels")
def test_steps_of_the_program_are_timed() -> None:
    _, packed = pair(Net(plain))
    x = torch.rand(1, 3, 40, 32)
    found = bench([Variant("packed", packed, lambda: packed(x))], x.shape, rounds=1, passes=3)
    (program,) = packed.binarize_programs.programs()
    assert len(found.steps) == len(program._ready[0].steps)
    places = {step.place: step.kind for step in found.steps if step.macs}
    assert places["a"] == "packed 3x3"
    assert places["b"] == "packed 1x1"
    assert found.macs == {"packed 3x3": 16 * 20 * 40 * 40 * 9, "packed 1x1": 16 * 20 * 40 * 70}
    by_kind: dict[str, float] = {}
    for step in found.steps:
        assert step.seconds > 0
        by_kind[step.kind] = by_kind.get(step.kind, 0.0) + 1e3 * step.seconds
    assert {k: v for k, v in found.kinds.items() if k != "around the steps"} == pytest.approx(by_kind)
    assert found.kinds["around the steps"] >= 0
    assert list(found.steps) == sorted(found.steps, key=lambda step: -step.seconds)
    with torch.inference_mode(), packed.binarize_programs.timed() as times:
        y = packed(x)
    assert len(times) == len(found.steps)
    with torch.inference_mode():
        assert torch.equal(packed(x), y)
    assert len(times) == len(found.steps)  # later calls are not timed


@pytest.mark.skipif(not available(), reason="needs the kernels")
def test_modules_are_timed_where_there_is_no_program(capsys: pytest.CaptureFixture[str]) -> None:
    from binarize.cli.bench_single import _print_parts

    _, packed = pair(Net(lambda net, x: plain(net, x) * float(x.mean())))
    x = torch.rand(1, 3, 40, 32)
    found = bench([Variant("packed", packed, lambda: packed(x))], x.shape, rounds=1, passes=2)
    assert not found.steps
    assert "between modules" in found.kinds
    assert found.as_dict()["parts"] == "modules"
    assert "torch.export" in found.no_program
    _print_parts(found)
    printed = " ".join(capsys.readouterr().out.split())
    assert "The network runs as modules, not as a program: torch.export" in printed
    assert "modules of the packed network" in printed


@pytest.mark.slow
def test_without_options_it_times_what_deploy_ships(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    try:
        assert run(["convert", "test_resnet", "--out", "m.safetensors", "--input-size", "32"]) == 0
        assert run(["deploy", "m.safetensors"]) == 0
        shipped = binarize.load("m-packed.safetensors")
        capsys.readouterr()
        short = ["--rounds", "1", "--passes", "1", "--size", "32", "--against", "eager", "--json"]
        for model in ("test_resnet", "m-packed.safetensors"):
            assert run(["bench", model, *short]) == 0
            found = json.loads(capsys.readouterr().out)
            assert found["method"] == shipped.binarize_plan.method
            assert found["exact_scales"] is RuntimeOptions().exact_scales is False
            assert isinstance(found["slower_than"], list)
        assert run(["bench", "m-packed.safetensors", *short, "--exact"]) == 0  # the earlier name
        assert json.loads(capsys.readouterr().out)["exact_scales"] is True
        assert run(["bench", "m-packed.safetensors", *short, "--approximate"]) == 0
        printed = capsys.readouterr()
        assert json.loads(printed.out)["exact_scales"] is False
        assert "--approximate is the default now" in printed.err
    finally:
        torch.set_num_threads(threads)


def _timed(packed_ms: float, kinds: dict[str, float]) -> Bench:
    times = {"packed": [packed_ms / 1e3], "eager": [2e-3], "bf16": [9e-3]}
    return Bench(
        times=times,
        passes=1,
        kinds=kinds,
        macs={},
        peak=None,
        machine={"cpu": "a", "kernels": "b", "torch": "c"},
        threads=1,
        shape=(1, 3, 8, 8),
    )


def _layers(spec: dict[str, Any], count: int = 2, **options: Any) -> nn.Module:
    layers = [PackedLayer(PackedSpec(kind="conv", kernel=(3, 3), **spec)) for _ in range(count)]
    for layer in layers:
        layer.options = RuntimeOptions(**options)
    return nn.Sequential(*layers)


DAB = QuantizerSpec(kind="dab", threshold="adaptive", scale="adaptive", granularity="channel")
SIGN = QuantizerSpec(kind="sign")


@pytest.mark.parametrize(
    ("spec", "options", "kinds", "words"),
    [
        ({"in_channels": 96, "out_channels": 96, "quantizer": DAB}, {}, {}, "granularity=layer"),
        (
            {"in_channels": 96, "out_channels": 96, "groups": 96, "quantizer": SIGN},
            {},
            {},
            "2 of 2 packed layers are depthwise",
        ),
        (
            {"in_channels": 96, "out_channels": 96, "padding_mode": "reflect", "quantizer": SIGN},
            {},
            {},
            "computed by torch, not by the kernels",
        ),
        ({"in_channels": 8, "out_channels": 96, "quantizer": SIGN}, {}, {}, "fewer than 64 input channels"),
        (
            {"in_channels": 96, "out_channels": 96, "quantizer": SIGN},
            {},
            {"Conv2d": 2.0, "packed 3x3": 1.0, "between modules": 1.0},
            "50% of the packed network's time is in parts that stayed float: Conv2d 2.0 ms",
        ),
        (
            {"in_channels": 96, "out_channels": 96, "quantizer": SIGN},
            {},
            {"packed 3x3": 1.0, "between modules": 2.0},
            "67% of its time is Python between the modules",
        ),
        (
            {"in_channels": 96, "out_channels": 96, "quantizer": SIGN},
            {},
            {"packed 3x3": 1.0, "around the steps": 1.0},
            "50% of its time is spent around the steps of its program",
        ),
        ({"in_channels": 96, "out_channels": 96, "quantizer": SIGN}, {}, {}, "a larger image"),
    ],
)
def test_what_would_help(
    spec: dict[str, Any], options: dict[str, Any], kinds: dict[str, float], words: str
) -> None:
    packed = _layers(spec, **options)
    slow = _timed(4.0, kinds)
    assert slower_than(slow) == ["eager"]
    if available() or "computed by torch" in words:
        assert words in " ".join(advice(slow, packed))
    fast = _timed(1.0, kinds)
    assert slower_than(fast) == []
    assert advice(fast, packed) == []


@pytest.mark.skipif(not available(), reason="needs the kernels")
def test_exact_scales_are_named_only_where_they_are_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("binarize.runtime.kernel_support.resolve", lambda: "avx512")
    spec = {"in_channels": 96, "out_channels": 96, "quantizer": DAB}
    exact = " ".join(advice(_timed(4.0, {}), _layers(spec, exact_scales=True)))
    assert "without exact_scales (--exact-scales) they are rounded" in exact
    rounded = " ".join(advice(_timed(4.0, {}), _layers(spec)))
    assert "exact_scales" not in rounded
    assert "granularity=layer" in rounded


def test_a_slower_packed_network_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    from binarize.cli.bench_single import print_single

    packed, slow = _layers({"in_channels": 8, "out_channels": 8, "quantizer": SIGN}), _timed(4.0, {"a": 1.0})
    document = {**slow.as_dict(), "method": {"name": "bnn", "options": {}}, "deploy_options": {}}
    document |= {"slower_than": slower_than(slow), "advice": advice(slow, packed)}
    print_single(slow, document)
    out = " ".join(capsys.readouterr().out.split())
    assert "The packed network is slower than eager." in out
    assert document["advice"]
    assert all(" ".join(text.split()) in out for text in document["advice"])


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
    facts = json.loads(capsys.readouterr().out)
    assert facts["torch"].startswith(torch.__version__)
    assert facts["available"].split() == ["torch", *features().isas]
    if available():
        assert facts["kernels"] in features().isas


def test_doctor_without_the_kernels(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "_load", lambda: (None, None, "not built"))
    assert run(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["kernels"] == "torch: not built"
    assert facts["available"] == "torch"
    assert facts["processor"] == facts["library"] == "-"
