"""What docs/comparison.md says of its tables is what the tables hold.

The page says which of its sentences are about the rows with two seeds; others, with one seed, may be added.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[2] / "docs" / "comparison.md").read_text(encoding="utf-8")
Row = dict[str, str]


def chapter(begin: str) -> str:
    """The text below a heading of the second level that begins so."""
    return TEXT.split(f"\n## {begin}")[1].split("\n## ")[0].split("\n### ")[0]


def tables(text: str) -> list[dict[str, Row]]:
    """All tables, as the cells of each row by their heads, by the row's first cell."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        heads, _, *rows = [[c.strip() for c in line.strip("|\n").split("|")] for line in block.splitlines()]
        found.append({row[0]: dict(zip(heads, row, strict=True)) for row in rows})
    return found


def mean(cell: str) -> float:
    """Of `0.512 ± 0.001`, or of the figures of the seeds: `0.298, 0.311`."""
    numbers = [float(part) for part in cell.partition(" ±")[0].split(",")]
    return sum(numbers) / len(numbers)


def two_seeds(table: dict[str, Row]) -> dict[str, Row]:
    return {name: row for name, row in table.items() if row.get("seeds") == "2"}


def order(rows: dict[str, Row], head: str, *, higher: bool) -> list[str]:
    """Names of the rows, the best first."""
    return sorted(rows, key=lambda name: mean(rows[name][head]), reverse=higher)


CAMVID, CAMVID_FITTING = tables(chapter("CamVid"))
NYU, NYU_FITTING = tables(chapter("NYUv2"))
HARD = "bnn (nonlinearity=hardtanh)"
PER_LAYER = "bidense (granularity=layer)"
FROM_FLOAT = "bidense (granularity=layer), from float"
LOWER = ("AbsRel", "RMSE m", "log10", "SILog")
FIGURES = ("delta1", "delta2", "delta3", *LOWER)


def closed(rows: dict[str, Row], head: str, name: str, start: str) -> str:
    """Share of the distance from a row to float, as the page prints it."""
    one, low, high = (mean(rows[which][head]) for which in (name, start, "float"))
    return f"{(one - low) / (high - low):.2f}"


def test_rows_of_both_tables_are_the_same() -> None:
    assert CAMVID.keys() == CAMVID_FITTING.keys()
    assert NYU.keys() == NYU_FITTING.keys()


def test_camvid_with_two_seeds() -> None:
    rows = two_seeds(CAMVID)
    fitting = {name: CAMVID_FITTING[name] for name in rows}
    assert set(order(fitting, "training loss", higher=False)[-2:]) == {"bnn", HARD}
    val = order(fitting, "mIoU %, val", higher=True)
    assert val[0] == "float"
    assert set(val[1:4]) == {"bidense", PER_LAYER, "adabin"}
    assert val[4] == "bisrnet"
    assert set(val[5:]) == {"reactnet", "bnn", HARD}
    assert order(rows, "mIoU %", higher=True)[-1] == HARD
    found = [
        closed(rows, "mIoU %", name, HARD) for name in ("bidense", PER_LAYER, "bnn", "reactnet", "bisrnet")
    ]
    text = " ".join(chapter("CamVid").split())
    assert (
        "closes {} of the distance from it to float, {} with one scale per layer".format(*found[:2]) in text
    )
    assert "bnn with {{0, 1}} {}, reactnet {}, bisrnet {}, adabin all of it".format(*found[2:]) in text
    assert float(closed(rows, "mIoU %", "adabin", HARD)) >= 1


def test_camvid_with_one_seed() -> None:
    for rows, head in ((CAMVID, "mIoU %"), (CAMVID_FITTING, "mIoU %, val")):
        low, high = sorted(mean(rows[name][head]) for name in ("bnn", HARD))
        assert all(low < mean(rows[name][head]) < high for name in ("bireal", "reste")), head
        assert mean(rows["fda"][head]) > mean(rows["reactnet"][head])
        assert order(rows, head, higher=True)[-2:] == ["xnor", "irnet"], head
    assert order(CAMVID_FITTING, "training loss", higher=False)[-2:] == ["xnor", "irnet"]


def test_camvid_from_float() -> None:
    found, scratch = mean(CAMVID[FROM_FLOAT]["mIoU %"]), mean(CAMVID[PER_LAYER]["mIoU %"])
    text = " ".join(chapter("CamVid").split())
    assert f"{found - 34.75:.1f} points more than the same network from scratch with the same seed" in text
    assert f"and {found - scratch:.1f} more than the mean of its two seeds" in text
    assert abs(found - mean(CAMVID["bidense"]["mIoU %"])) < 0.5
    for head in ("training loss", "mIoU %, val"):
        worse = mean(CAMVID_FITTING[FROM_FLOAT][head]) - mean(CAMVID_FITTING[PER_LAYER][head])
        assert (worse > 0) == (head == "training loss")


@pytest.mark.parametrize("head", FIGURES)
def test_nyuv2_order_with_two_seeds(head: str) -> None:
    rows = two_seeds(NYU)
    ranking = [name for name in order(rows, head, higher=head not in LOWER) if name != "float"]
    assert ranking[0] == (PER_LAYER if head == "SILog" else "bidense")
    assert ranking[-2:] == ["bnn", HARD]


def test_nyuv2_distances_with_two_seeds() -> None:
    rows, text = two_seeds(NYU), " ".join(chapter("NYUv2").split())
    shares = [
        closed(rows, "AbsRel", name, start) for name in ("bidense", PER_LAYER) for start in ("bnn", HARD)
    ]
    assert "closes {} of the distance between bnn and float in AbsRel ({} from the hard tanh)".format(
        *shares[:2]
    ) in (text)
    assert "it closes {} of the distance ({} from the hard tanh)".format(*shares[2:]) in text
    first, second = [name for name in order(rows, "AbsRel", higher=False) if name != "float"][:2]
    lead = mean(rows[second]["AbsRel"]) - mean(rows[first]["AbsRel"])
    assert f"It leads the others by {lead:.3f} AbsRel or more" in text


def test_nyuv2_baselines() -> None:
    text = " ".join(chapter("NYUv2").split())
    found = re.search(
        r"everywhere gives AbsRel \S+ and delta1 \S+, the mean depth .*? (\S+) and (\S+)\.", text
    )
    assert found is not None
    error, share = map(float, found.groups())
    rows = two_seeds(NYU)
    assert {name for name in rows if mean(rows[name]["AbsRel"]) < error} == {"float", "bidense"}
    assert {name for name in rows if mean(rows[name]["delta1"]) <= share} == {"bnn", HARD, "adabin"}
    single = NYU.keys() - rows.keys()
    assert {name for name in single if mean(NYU[name]["AbsRel"]) < error} == {
        "bit",
        "bbcu",
        "groupnet",
        "cbnn",
        FROM_FLOAT,
    }


def test_nyuv2_rows_with_one_seed() -> None:
    ranking = order(NYU, "AbsRel", higher=False)
    assert ranking[-3:] == ["bireal", "mbunet", "rbnn"]
    best = {head: mean(two_seeds(NYU)["bidense"][head]) for head in ("AbsRel", "delta1")}
    ahead = {
        name: (mean(row["AbsRel"]) < best["AbsRel"], mean(row["delta1"]) > best["delta1"])
        for name, row in NYU.items()
        if row["seeds"] == "1" and not name.startswith("bidense")
    }
    assert {name for name, better in ahead.items() if any(better)} == {"bit", "groupnet"}
    assert ahead["bit"] == (True, True)
    assert ahead["groupnet"] == (False, True)
    assert mean(NYU["groupnet"]["delta1"]) - best["delta1"] < 0.005


def test_quoted_figures_of_rows() -> None:
    """`xnor (AbsRel 0.332)`, `reste (0.356)`: figures beside names in the points are those of the table."""
    points = chapter("NYUv2").partition("\n- **Groups")[2]
    points = " ".join(line for line in points.splitlines() if not line.startswith("|"))
    names = "xnor|reste|bireal|rbnn|recu|bit|bbcu|groupnet|cbnn|mbunet|reactnet|bisrnet|adabin"
    quoted = re.findall(rf"\b({names}) \((?:AbsRel )?(0\.\d{{3}})[,)]", points)
    assert len(quoted) >= 6
    assert [(name, value) for name, value in quoted if f"{mean(NYU[name]['AbsRel']):.3f}" != value] == []
