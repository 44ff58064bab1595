"""What printed tables share: no word is broken, widths are used, colours and arrows where they can be."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

import binarize
from binarize.accounting.report import LayerCount, Summary
from binarize.cli import output, run
from binarize.cli.card import card
from binarize.files import create_timm, zoo
from binarize.runtime.verify import LayerError, Verification
from binarize.tables import Name, better, write_what_can_be

LONG = "encoder.stages_2.blocks.11.attention.output_projection.linear"


def _terminal(width: int, monkeypatch: pytest.MonkeyPatch, **environment: str) -> Console:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TERM", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", **environment}.items():
        monkeypatch.setenv(name, value)
    return Console(
        file=io.StringIO(), force_terminal=True, width=width, highlight=False, legacy_windows=False
    )


def _printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [12, 25, 40, 80])
def test_names_break_behind_dots_only(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    table = Table(box=None, pad_edge=False)
    table.add_column("layer")
    table.add_row(Name(LONG))
    console.print(table)
    lines = [line.strip() for line in _printed(console).splitlines()[1:]]
    assert "".join(lines) == LONG
    assert max(map(len, lines)) <= width
    assert all(line.endswith(".") or line == lines[-1] or width < 20 for line in lines)


def _plan() -> binarize.graph.Plan:
    return binarize.plan(create_timm("test_resnet"), "bidense")


@pytest.fixture(scope="module")
def plan() -> binarize.graph.Plan:
    return _plan()


def test_a_plan_uses_the_width_that_there_is(
    plan: binarize.graph.Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = {}
    for width in (80, 130):
        console = _terminal(width, monkeypatch, NO_COLOR="1")
        console.print(plan)
        lines[width] = Text.from_ansi(_printed(console)).plain.splitlines()
        assert max(map(len, lines[width])) <= width
    assert len(lines[130]) < len(lines[80])
    wide = [line for line in lines[130] if " conv2d " in line]
    assert any("binary, identity" in line for line in wide)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_digit_of_a_summary_is_cut_off(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = LayerCount(
        name="layer4.0.downsample.1", kind="BinaryConv2d", binary_params=18_432, packed_bytes=608
    )
    summary = Summary(model="M", inputs=((1, 3, 64, 64),), convention="honest", layers=(counts,) * 2)
    console = _terminal(width, monkeypatch, NO_COLOR="1")
    console.print(summary)
    lines = Text.from_ansi(_printed(console)).plain.splitlines()
    assert max(map(len, lines)) <= width
    assert sum(line.rstrip().endswith(" 608") for line in lines) == 2
    assert sum("18.4K" in line for line in lines) == 2
    assert ("kind" in "".join(lines)) == (width > 60)


def test_colours_on_a_terminal_only(plan: binarize.graph.Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    console = _terminal(100, monkeypatch)
    console.print(plan)
    rows = _printed(console).splitlines()
    assert any("\x1b[32m" in row and "binary" in row for row in rows)  # green
    assert not any("\x1b[32m" in row for row in rows if "stem: sees" in row)
    assert "\x1b[32m" not in _no_color(plan, monkeypatch)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert "\x1b" not in str(plan)


def _no_color(plan: binarize.graph.Plan, monkeypatch: pytest.MonkeyPatch) -> str:
    console = _terminal(100, monkeypatch, NO_COLOR="1")
    console.print(plan)
    return _printed(console)


def test_slow_and_wrong_layers_have_a_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Verification(
        layers=(LayerError("good", median=1e-7), LayerError(LONG, median=0.3)),
        agreement=0.5,
        difference=0.1,
        inputs=1,
    )
    console = _terminal(60, monkeypatch)
    console.print(found)
    lines = _printed(console).splitlines()
    assert "\x1b[31m" in next(line for line in lines if "projection" in line)
    assert not any("\x1b[31m" in line for line in lines if "good" in line)
    text = str(found)
    assert text.startswith("1 input: outputs differ by 0.1 of their mean, same largest channel at 50.000 %\n")
    assert "\x1b" not in text


@pytest.mark.parametrize("width", [40, 60, 80, 140])
def test_cards_of_the_zoo_break_no_word(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "PIPE_WIDTH", width)
    for name in zoo.names():
        text = (zoo.entry(name) / zoo.CARD).read_text(encoding="utf-8")
        assert run(["zoo", "show", name]) == 0
        out = capsys.readouterr().out
        words = {word for line in text.splitlines() if not line.startswith("|") for word in line.split()}
        assert words <= set(out.split())
        longest = 2 + max(map(len, words))  # lines of a list are indented by 2
        assert max(len(line.rstrip()) for line in out.splitlines()) <= max(width, longest)


def test_a_table_of_a_card() -> None:
    parts = list(card("# a\n\n| x | y |\n| --- | ---: |\n| one | 2 |\n\nend"))
    assert [part for part in parts if isinstance(part, str)] == ["# a", "", "", "end", ""]
    (table,) = [part for part in parts if isinstance(part, Table)]
    assert [column.justify for column in table.columns] == ["left", "right"]


def test_sentences_end_between_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = "/a/very/long/path/" + "x" * 90
    output.tell(f"written  some words before {path} and some behind it, as many as a line needs to be full")
    out = capsys.readouterr().out
    assert path in out
    assert all(len(line) <= 80 for line in out.splitlines() if path not in line)
    assert all(line.startswith("         ") for line in out.splitlines()[1:])


@pytest.mark.parametrize(
    ("figure", "arrow"), [("miou", " ↑"), ("delta1", " ↑"), ("abs_rel", " ↓"), ("log10", " ↓"), ("other", "")]
)
def test_arrows(figure: str, arrow: str) -> None:
    assert better(figure) == arrow


def test_arrows_where_the_encoding_lacks_them() -> None:
    data = io.BytesIO()
    stream = io.TextIOWrapper(data, encoding="ascii")
    write_what_can_be(stream)
    stream.write("mIoU ↑ AbsRel ↓ 0.1 ± 0.2 é")
    stream.flush()
    assert data.getvalue() == b"mIoU ^ AbsRel v 0.1 +- 0.2 ?"
    wide = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    write_what_can_be(wide)
    assert wide.errors == "strict"


def test_lists_have_arrows(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["zoo"]) == 0
    out = capsys.readouterr().out
    assert "mIoU ↑" in out
    assert "AbsRel ↓" in out


def test_data_sets_and_facts_break_no_word(capsys: pytest.CaptureFixture[str]) -> None:
    from binarize.data import catalog

    assert run(["data", "list"]) == 0
    out = capsys.readouterr().out
    assert max(len(line.rstrip()) for line in out.splitlines()) <= 80
    shown = "".join(line[33:].strip() for line in out.splitlines()[1:])
    for name in catalog.names():
        layout = catalog.info(name).layout
        assert "".join(layout.split()) in "".join(shown.split())
        assert all(not line.strip().startswith((".", "t ")) for line in out.splitlines())
    assert run(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert run(["doctor"]) == 0
    words = capsys.readouterr().out.split()
    assert all(word in words for value in facts.values() for word in value.split())


@pytest.mark.parametrize("width", [60, 80, 100, 130, 200])
def test_a_comparison_uses_the_width_and_breaks_no_word(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from binarize.cli.compare import _print

    monkeypatch.setattr(output, "PIPE_WIDTH", width)
    rows = []
    for name in ("nyuv2-397-bidense-layer", "nyuv2-397-bnn", "nyuv2-397-float"):
        metrics = json.loads((zoo.entry(name) / zoo.METRICS).read_text())
        numbers = {k: v for k, v in metrics["figures"].items() if isinstance(v, float)}
        row = {"label": metrics["label"], "method": metrics["recipe"]["method"], "costs": metrics["costs"]}
        row |= {"seeds": [0, 1], "seconds": 60.0, "complete": True, "published": {}}
        rows.append({**row, "figures": {k: {"mean": v, "sd": 0.001} for k, v in numbers.items()}})
    network = {**metrics["recipe"]["network"], "title": "upernet on convnext_atto"}
    table = {"data": "nyuv2", "split": "test", "network": network, "counted_at": [96, 128]}
    _print({**table, "epochs": 4, "batch": 8, "differences": [], "tests": [], "rows": rows})
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    text = "\n".join(lines)
    for row in rows:
        assert f"{row['figures']['abs_rel']['mean']:.3f} ± 0.001" in text
    assert "AbsRel ↓" in text
    assert all(word in text.split() for row in rows for word in row["label"].split())
    if width == 200:
        assert "No room" not in text


def test_reports_break_no_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inner = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.Conv2d(8, 8, 1), torch.nn.Conv2d(8, 2, 1))
    net = torch.nn.ModuleDict(
        {"encoder_of_many_stages": torch.nn.ModuleDict({"attention_projection": inner})}
    )

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a_network_with_a_long_name = net

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return inner(x)

    model = binarize.apply(Net(), "bnn", example_inputs=torch.zeros(1, 3, 8, 8))
    packed = binarize.deploy(model)
    for text in (str(packed.deploy_report), str(binarize.summary(model, 8)), str(model.binarize_plan)):
        assert {"a_network_with_a_long_name.", "encoder_of_many_stages."} <= {
            part + "." for word in text.split() for part in word.split(".")
        }
        assert max(map(len, text.splitlines())) <= 80
    document = json.loads(json.dumps(packed.deploy_report.as_dict()))
    assert document["layers"][1]["name"].endswith("attention_projection.1")
