"""Records summed up."""

from __future__ import annotations

import json
from typing import Any

from binarize.coverage import Record, as_document, as_markdown, latest
from binarize.coverage.report_libraries import as_ranges

VERSIONS = {"binarize": "1", "timm": "2", "torch": "3"}


def record(name: str, family: str, status: str = "pass", **fields: Any) -> Record:
    given = {"use": "model", "method": "bidense", "versions": VERSIONS, **fields}
    return Record(name=name, family=family, status=status, **given)  # type: ignore[arg-type]


STEM = {"stem: sees the input": 1}
RECORDS = [
    record(
        "b2",
        "b",
        convs=5,
        convs_converted=4,
        convs_kept=STEM,
        linears=2,
        linears_converted=1,
    ),
    record("a1", "a", "fail", failed="load", reason="not the same", convs=3, convs_converted=3),
    record(
        "b1",
        "b",
        convs=4,
        convs_converted=2,
        convs_kept=STEM,
        convs_missed=("x: odd",),
    ),
    record("c1", "c", "skip", reason="nothing there", convs=1, convs_kept=STEM),
    record(
        "b1",
        "b",
        use="upernet",
        method="bnn",
        device="meta",
        params=2_000_000_000,
        overflows="32x32: x",
    ),
]


def test_document_sums_up_by_use_method_and_family() -> None:
    document = as_document(RECORDS)
    assert json.loads(json.dumps(document)) == document
    assert document["versions"] == [VERSIONS]
    classifiers, encoders = document["totals"]
    assert (classifiers["use"], classifiers["method"]) == ("model", "bidense")
    assert [classifiers[n] for n in ("models", "pass", "fail", "skip", "meta")] == [4, 2, 1, 1, 0]
    assert classifiers["convs_converted"] == 9
    assert classifiers["convs_wanted"] == 10  # the missed one too
    assert classifiers["convs_kept"] == {"stem: sees the input": 3}
    assert (encoders["models"], encoders["meta"]) == (1, 1)
    families = {(f["use"], f["family"]): f["models"] for f in document["families"]}
    assert families == {("model", "a"): 1, ("model", "b"): 2, ("model", "c"): 1, ("upernet", "b"): 1}
    assert [r["name"] for r in document["records"]] == ["a1", "b1", "b2", "c1", "b1"]


def test_page_tells_shares_failures_and_what_was_not_done() -> None:
    page = as_markdown(RECORDS, ["binarize coverage"])
    assert "    binarize coverage\n" in page
    assert "| model | bidense | 4 | 2 | 1 | 1 | 0 | 10 | 9 | 90.00% | 1 |" in page
    assert "| b | 2 | 2 | 9 | 6 | 2 stem | 1 | 2 | 1 |" in page
    assert "- `a1` (bidense): load: not the same" in page
    assert "- `b1` under upernet (bnn): 2,000 M parameters" in page
    assert "- `b1` under upernet (bnn): 32x32: x" in page
    assert "- `c1` (bidense): nothing there" in page
    assert "- `b1` (bidense): x: odd" in page
    assert page.endswith("\n")


def output(name: str, *kept: str, functions: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"name": name, "final": list(kept), "kept": list(kept), "functions": list(functions)}


def of_library(name: str, status: str = "pass", **fields: Any) -> Record:
    return record(name, "depth", status, library="smp", **fields)


OTHERS = [
    of_library(
        "x",
        convs=5,
        convs_converted=4,
        linears=2,
        linears_converted=1,
        outputs=(
            output("out", "head.conv", functions=("relu",)),
            output("aux.0", "aux.0.conv", "aux.1.conv"),
            output("aux.1", "aux.0.conv", "aux.1.conv"),
            output("features"),
        ),
        notes=("n",),
    ),
    of_library("y", "fail", failed="final", reason="final layers made binary: a|b"),
    of_library("z", not_packed=("conv: why",), seconds={"pack": 1.0}),
]


def test_networks_of_other_libraries_have_a_line_each() -> None:
    page = as_markdown([*RECORDS, *OTHERS])
    head, section = page.split("## Networks of other libraries")
    assert head.rstrip() == as_markdown(RECORDS).rstrip()  # timm's part stays as it is
    assert "### bidense: 2 of 3 pass" in section
    assert (
        "| smp | `x` | depth | 5 of 7 | out: `head.conv` (relu); aux.0-1: `aux.0-1.conv` | 1 | pass |"
    ) in section
    assert "| smp | `y` | depth | 0 of 0 | - | - | fail: final: final layers made binary: a\\|b |" in section
    assert "| smp | `z` | depth | 0 of 0 | - | - | pass, packed but for 1 |" in section


def test_document_keeps_libraries_apart() -> None:
    document = as_document([*RECORDS, *OTHERS, of_library("b1")])
    totals = {(t["library"], t["use"], t["method"]): t["models"] for t in document["totals"]}
    assert totals == {
        ("timm", "model", "bidense"): 4,
        ("timm", "upernet", "bnn"): 1,
        ("smp", "model", "bidense"): 4,
    }


def test_names_that_differ_by_numbers_are_one() -> None:
    assert as_ranges(["head.0", "head.1", "head.2", "fc"]) == ["head.0-2", "fc"]
    assert as_ranges(["a.0.b.1", "a.2.b.1", "a.4.b.1", "a"]) == ["a.0,2,4.b.1", "a"]
    assert as_ranges(["conv"]) == ["conv"]


def test_page_says_when_there_is_nothing_to_say() -> None:
    page = as_markdown([record("a1", "a")])
    assert page.count("\nNone.\n") == 5


def test_of_several_records_of_a_model_use_and_method_the_last_one_counts() -> None:
    before = record("a1", "a", "fail", versions={"binarize": "0"}, failed="load", reason="not the same")
    others = [record("a1", "a", use="upernet"), record("a1", "a", method="bnn")]
    now = record("a1", "a", reason="now")
    assert [r.reason for r in latest([before, now])] == ["now"]
    document = as_document([before, *others, now])
    assert [(t["models"], t["pass"]) for t in document["totals"]] == [(1, 1)] * 3
    assert document["versions"] == [VERSIONS]
    assert "not the same" not in as_markdown([before, *others, now])
    assert "not the same" in as_markdown([*others, now, before])
