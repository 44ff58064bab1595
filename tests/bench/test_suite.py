"""`binarize bench --suite`: rows, failures, continuing, summary and picture, on tiny networks."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from binarize.bench import SUITE, Entry, Networks, run_entry, suite_picture, summary
from binarize.bench import suite as suite_module
from binarize.bench.random_images import random_images
from binarize.bench.suite import LAYER, PACKED, possible, ratios
from binarize.cli import run
from binarize.cli.bench_networks import float_network
from binarize.cli.bench_suite_table import SuiteTable
from binarize.errors import ConfigError

TINY = (Entry("nets.py:one", 32), Entry("nets.py:two", 40))
NETS = """
from torch import nn

def one(last=4):
    layers = [nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, last, 1)]
    return nn.Sequential(*layers)

def two():
    return one(5)

def fixed():
    return nn.Sequential(one(), nn.Flatten(), nn.Linear(4 * 220 * 220, 2))
"""


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> object:
    monkeypatch.setattr("binarize.bench.SUITE", TINY)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETS)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


SHORT = ["bench", "--suite", "--rounds", "1", "--passes", "1", "--against", "eager"]


def test_the_list() -> None:
    assert [(e.target.partition("?")[0], e.size) for e in SUITE] == [
        ("resnet18", 224),
        ("resnet50", 224),
        ("convnext_tiny", 224),
        ("efficientnet_b0", 224),
        ("mobilenetv3_large_100", 224),
        ("regnety_004", 224),
        ("densenet121", 224),
        ("hrnet_w18_small", 224),
        ("vgg11_bn", 224),
        ("swin_tiny_patch4_window7_224", 224),
        ("vit_small_patch16_224", 224),
        ("upernet:convnext_tiny", 480),
        ("torchvision:deeplabv3_resnet50", 480),
    ]


def test_ratios_and_summary() -> None:
    medians = {PACKED: 2.0, LAYER: 1.0, "a": 6.0, "b": 3.0}
    assert ratios(medians, [PACKED, LAYER]) == {
        "best": "b",
        PACKED: {"a": 3.0, "b": 1.5, "best": 1.5},
        LAYER: {"a": 6.0, "b": 3.0, "best": 3.0},
    }
    assert ratios({PACKED: 2.0}, [PACKED]) == {"best": None, PACKED: {}}
    rows = [
        {"network": "m", "ratios": ratios({PACKED: 2.0, "a": 6.0, "b": 3.0}, [PACKED])},
        {"network": "n", "error": "broken"},
        {"network": "o", "ratios": ratios({PACKED: 1.0, "a": 12.0}, [PACKED])},
    ]
    found = summary(rows)[PACKED]
    assert found["a"]["geometric_mean"] == pytest.approx(6.0)
    assert (found["a"]["least"], found["a"]["least_network"], found["a"]["networks"]) == (3.0, "m", 2)
    assert found["b"] == {"geometric_mean": 1.5, "least": 1.5, "least_network": "m", "networks": 1}
    assert found["best"]["geometric_mean"] == pytest.approx(math.sqrt(1.5 * 12))


def test_rows_file_and_picture(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*SHORT, "--out", "s"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "by default" in out
    assert "form=default" in out
    assert "granularity=channel" in out
    found = json.loads(Path("s.json").read_text())
    assert [row["network"] for row in found["rows"]] == [e.target for e in TINY]
    for row, entry in zip(found["rows"], TINY, strict=True):
        assert row["shape"] == [1, 3, entry.size, entry.size]
        assert [v["name"] for v in row["variants"]] == [PACKED, LAYER, "eager"]
        assert row["method"]["options"]["granularity"] == "channel"
        medians = {v["name"]: v["median_ms"] for v in row["variants"]}
        assert row["ratios"][LAYER]["best"] == pytest.approx(medians["eager"] / medians[LAYER])
    assert found["summary"][PACKED]["best"]["networks"] == 2
    assert found["setting"]["machine"]["cpu"]
    with Image.open("s.png") as picture:
        assert picture.size[0] > 1000


@pytest.mark.slow
def test_a_suite_that_was_stopped_continues(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = [*SHORT, "--method", "bnn", "--out", "s"]
    assert run([*quick, "--pattern", "*one"]) == 0
    first = json.loads(Path("s.json").read_text())["rows"]
    measured: list[str] = []

    def run_anew(entry: Entry, *arguments: Any, **more: Any) -> dict[str, Any]:
        measured.append(entry.target)
        return run_entry(entry, *arguments, **more)

    monkeypatch.setattr("binarize.bench.run_entry", run_anew)
    assert run([*quick, "--json"]) == 0
    rows = json.loads(Path("s.json").read_text())["rows"]
    assert measured == ["nets.py:two"]
    assert rows[0] == first[0]
    assert run([*quick, "--pattern", "*one", "--fresh"]) == 0
    assert measured == ["nets.py:two", "nets.py:one"]
    capsys.readouterr()
    assert run([*quick, "--rounds", "2"]) == 2
    assert "another rounds (1, now 2)" in capsys.readouterr().err
    Path("s.json").write_text("[]")
    assert run(quick) == 2
    assert "does not hold rows of a suite" in capsys.readouterr().err


def test_one_that_fails_does_not_stop_the_others(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "binarize.bench.SUITE", (Entry("test_resnt", 8), Entry("nets.py:fixed", 32), *TINY[:1])
    )
    assert run([*SHORT, "--method", "bnn", "--json", "--out", "s"]) == 1
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert "test_resnet" in rows[0]["error"]
    assert "shapes cannot be multiplied" in rows[1]["error"]
    assert "error" not in rows[2]
    assert run([*SHORT, "--method", "bnn", "--out", "s"]) == 1  # what failed is tried again
    assert f"test_resnt: {rows[0]['error'][:20]}" in capsys.readouterr().out


def test_a_rival_that_fails_is_left_out_of_its_row() -> None:
    class Odd(nn.Module):
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            if torch.is_autocast_enabled("cpu"):
                raise RuntimeError("not in bfloat16\nat all")
            return x.mean((2, 3))

    def build(entry: Entry) -> Networks:
        return Networks({PACKED: nn.Identity()}, Odd(), random_images((1, 3, 8, 8), 0), {"method": "m"})

    row = run_entry(Entry("odd", 8), build, ["bf16", "eager"], rounds=1)
    assert row["failed"] == {"bf16": "RuntimeError: not in bfloat16"}
    assert row["differences"] == {"eager": 0.0}
    assert row["ratios"]["best"] == "eager"
    assert row["method"] == "m"
    json.dumps(row)


def test_without_the_packages_the_others_are_timed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = "it needs the package openvino: pip install 'binarize[bench]'"
    monkeypatch.setattr(suite_module, "why_not", lambda name: missing if "vino" in name else "")
    names, reasons = possible()
    assert names == ["compile", "onnxruntime", "onnxruntime-int8"]
    assert list(reasons) == ["openvino", "openvino-bf16", "openvino-int8"]
    monkeypatch.setattr(suite_module, "AGAINST", ("openvino",))
    assert run(["bench", "--suite", "--rounds", "1", "--method", "bnn", "--pattern", "*one"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert f"- without openvino: {missing}." in out


def test_the_table_has_room_for_all_rivals(capsys: pytest.CaptureFixture[str]) -> None:
    table = SuiteTable([e.target for e in SUITE], [PACKED, LAYER], suite_module.AGAINST)
    assert table.left_out == []
    medians = {PACKED: 0.3, LAYER: 1407.2, **dict.fromkeys(suite_module.AGAINST, 999.96)}
    variants = [{"name": name, "median_ms": ms} for name, ms in medians.items()]
    for entry in SUITE:
        found = ratios(medians, [PACKED, LAYER])
        table.show({"network": entry.target, "variants": variants, "ratios": found})
    slow = {PACKED: 3026.0, "compile": 12301.0}
    variants = [{"name": name, "median_ms": ms} for name, ms in slow.items()]
    table.show({"network": "slow", "variants": variants, "ratios": {**ratios(slow, [PACKED]), LAYER: {}}})
    table.ratios("layer: mean", LAYER, {"compile": 5.0, "best": 12.3})
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "…" not in text
    assert all(cell in text for cell in ("0.30", "1407", "1000*", "12.3", "3333", "12s*"))
    wide = SuiteTable(["a"], [PACKED, LAYER], [*suite_module.AGAINST, "channels_last", "bf16"])
    assert wide.left_out == ["channels_last", "bf16"]


def test_picture_with_missing_values() -> None:
    both = {"network": "a?b=1", "size": 224, "ratios": ratios({PACKED: 2, LAYER: 1, "x": 3}, [PACKED, LAYER])}
    alone = {"network": "c", "size": 480, "ratios": ratios({PACKED: 2.0}, [PACKED])}
    rows = [both, alone, {"network": "d", "size": 224, "error": "e"}]
    data = suite_picture({"rows": rows, "against": ["x", "y"], "summary": summary(rows)})
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.size[0] > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench"], "give a MODEL, or --suite"),
        (["bench", "test_resnet", "--suite"], "not both"),
        (["bench", "--suite", "--size", "32"], "--fusions are for one MODEL"),
        (["bench", "test_resnet", "--fresh"], "--fresh are for --suite"),
        (["bench", "--suite", "--pattern", "resnot*"], "matches no network of the suite; it has nets.py:one"),
        (["bench", "--suite", "--set", "granularty=layer"], "granularity"),
        (["bench", "--suite", "--against", "openvin"], "did you mean 'openvino'"),
        (["bench", "torchvision:deeplabv3_resnet5"], "did you mean 'deeplabv3_resnet50'"),
        (["bench", "torchvision:resnet18?num_clases=3"], "cannot be built"),
    ],
)
def test_bad_requests(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    assert message in capsys.readouterr().err


def test_networks_of_torchvision() -> None:
    model = float_network("torchvision:lraspp_mobilenet_v3_large?num_classes=4").eval()
    assert list(model(torch.rand(1, 3, 32, 32))) == ["out"]
    assert model(torch.rand(1, 3, 32, 32))["out"].shape[1] == 4
    with pytest.raises(ConfigError, match="option"):
        float_network("torchvision:resnet18?num_classes")
