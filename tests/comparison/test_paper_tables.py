"""The tables of the paper: what is printed, which recipes have rows, which runs fill them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from binarize import recipes
from binarize.cli import run
from binarize.comparison import paper, paper_table
from binarize.comparison.published import paper_row, published
from binarize.comparison.runs import KnownRun
from binarize.recipes import TrainingRecipe

COSTS = {"paper": {"params_k": 1626.4, "ops_g": 5.3726}, "honest": {"params_k": 1551.2, "ops_g": 5.532}}


@pytest.fixture(autouse=True)
def _not_counted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setattr(paper_table, "count_rows", lambda table: ((row, COSTS) for row in table.rows))


def _recipe(name: str, *settings: str) -> TrainingRecipe:
    return recipes.load(name, list(settings))


def _run(recipe: TrainingRecipe, place: str = "a", **figures: float) -> KnownRun:
    return KnownRun(place=place, recipe=recipe, figures=figures, source=recipe.data.test)


def test_shipped_recipes_have_the_rows_of_their_names() -> None:
    for name in recipes.names():
        row, recipe = paper_row(_recipe(name)), _recipe(name)
        if recipe.data.name not in paper.DATA or recipe.network.encoder != "convnext_tiny":
            continue
        last = name.rpartition("convnext_tiny-")[2]
        expected = {"float": "ConvNeXt", "float-pretrained": "ConvNeXt*"}.get(last, last.partition("-")[0])
        assert row is not None, name
        assert row.label.lower() == expected.lower() or row.label[0] == last[-1], name


@pytest.mark.parametrize("query", ["", "?width=128", "?head=full&width=128"])
def test_a_network_in_one_line_has_its_row(query: str) -> None:
    line = [f"network.name=upernet:convnext_tiny{query}", "network.encoder=null"]
    assert published(_recipe("ade20k/convnext_tiny-bnn", *line)) == {"pixel_accuracy": 0.6169, "miou": 0.0868}
    line = [f"network.name=upernet{query}", "network.encoder=convnext_tiny"]
    row = paper_row(_recipe("ade20k/convnext_tiny-float", *line, "network.pretrained=true"))
    assert row is not None
    assert row.label == "ConvNeXt*"


@pytest.mark.parametrize(
    "settings",
    [
        ["network.name=upernet:convnext_tiny?width=64", "network.encoder=null"],
        ["network.options.head=quarter"],
        ["network.encoder=convnext_atto"],
        ["network.name=dpt"],
        ["method.options.granularity=layer"],
        ["method.keep=[psp.*]"],
        ["data.name=nyuv2-397"],
    ],
)
def test_other_networks_have_no_row(settings: list[str]) -> None:
    assert published(_recipe("ade20k/convnext_tiny-bidense", *settings)) == {}


def test_an_option_at_its_default_makes_no_other_row() -> None:
    for options in ("{binarizer: sign}", "{ablation: 1, form: table}"):
        row = paper_row(_recipe("ade20k/convnext_tiny-bidense", f"method.options={options}"))
        assert row is not None
        assert row.label == "1) w/o DAB"


def test_a_row_is_filled_by_its_own_runs() -> None:
    own = _recipe("nyuv2/convnext_tiny-bidense")
    second = own.model_copy(update={"training": own.training.model_copy(update={"seed": 1})})
    other = _recipe("nyuv2-397/convnext_atto-bidense")
    runs = [
        _run(own, "a", delta1=0.70, abs_rel=0.19, rmse=0.6),
        _run(second, "b", delta1=0.74, abs_rel=0.21, rmse=0.6),
        _run(other, "c", delta1=0.6, abs_rel=0.3, rmse=0.9),
        _run(_recipe("camvid/convnext_atto-bidense"), "d", miou=0.3),
        KnownRun(place="e", recipe=own, figures={}, source="not measured"),
    ]
    document = paper_table.as_dict(paper.TABLES[3], runs)
    rows = {row["label"]: row for row in document["rows"]}
    found = rows["BiDense"]["runs"]["nyuv2"]
    assert found["places"] == ["a", "b"]
    assert found["seeds"] == [0, 1]
    assert found["figures"]["delta1"]["mean"] == pytest.approx(0.72)
    assert found["figures"]["delta1"]["sd"] == pytest.approx(0.0282842712)
    assert rows["BiDense"]["runs"]["kitti"]["figures"] == {}
    assert all(not row["runs"]["nyuv2"]["figures"] for label, row in rows.items() if label != "BiDense")
    assert [run["place"] for run in document["other_runs"]] == ["c"]
    assert document["other_runs"][0]["network"] == "upernet on convnext_atto, width=32"
    assert [run["place"] for run in document["not_measured"]] == ["e"]
    text = paper_table.markdown(document)
    assert "| 0.712 | 0.720 ± 0.028 |" in text
    assert json.loads(json.dumps(document)) == document


def test_a_count_that_is_not_as_printed_has_a_footnote() -> None:
    rows = {row["label"]: row for row in paper_table.as_dict(paper.TABLES[1])["rows"]}
    assert rows["BiDense"]["counted_as_printed"]
    assert rows["BiDense"]["note"] == ""
    assert not rows["BNN"]["counted_as_printed"]  # of the costs that this test gives
    assert "no reason is known" in rows["BNN"]["note"]
    assert "batch norms" in rows["ConvNeXt"]["note"]


def _tables(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(["tables", *arguments]) == 0
    return capsys.readouterr().out


def test_the_command_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    out = _tables(capsys)
    assert max(len(line.rstrip()) for line in out.splitlines() if "zoo:" not in line) <= 80
    for figure in ("1,626", "288.36", "18.75", "0.189", "62.50", "15.10"):
        assert figure in out
    document = json.loads(_tables(capsys, "2", "--json"))
    assert [table["table"] for table in document["tables"]] == [2]
    assert len(document["tables"][0]["rows"]) == 14


def test_runs_in_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import small_net
    import yaml

    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(small_net.values(epochs=1)))
    assert run(["train", str(path), "--out", str(tmp_path / "runs" / "a")]) == 0
    (tmp_path / "runs" / "b").mkdir()
    (tmp_path / "runs" / "b" / "log.jsonl").write_text("{}\n")
    (tmp_path / "runs" / "b" / "model.safetensors").write_text("nothing")
    capsys.readouterr()
    assert run(["tables", "1", "--runs", str(tmp_path / "runs"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (fault,) = document["not_read"]
    assert str(tmp_path / "runs" / "b") in fault
    assert run(["tables", "--runs", str(tmp_path / "none")]) == 2
    assert run(["tables", "--json", "--markdown"]) == 2


@pytest.mark.slow
def test_table_1_counted() -> None:
    seen: list[Any] = []
    document = paper_table.as_dict(paper.TABLES[1], report=lambda *event: seen.append(event))
    assert [row["label"] for row in document["rows"] if not row["counted_as_printed"]] == ["ConvNeXt"]
    honest = {row["label"]: round(row["costs"]["params_k"]["honest"]) for row in document["rows"]}
    assert honest["BiDense"] == 1551
    assert len(seen) == 7
