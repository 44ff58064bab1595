"""`binarize coverage`."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from binarize.cli import FAILED, run
from binarize.cli.coverage import INCOMPLETE
from binarize.coverage import Record, Subject, pool
from binarize.coverage.subjects import versions


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fake_run(jobs: Any, *, report: Any, records: Path, **options: Any) -> list[Record]:
    """As `pool.run`, without the work: one failure among the results."""
    found = []
    for job in jobs:
        bad = job.subject.name == "test_convnext"
        record = dataclasses.replace(
            job.blank(),
            status="fail" if bad else "pass",
            failed="load" if bad else "",
            reason="it is not the same" * bad,
        )
        report(record, False)
        found.append(record)
    return found


def test_a_model_is_checked_and_reported(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["coverage", "--pattern", "test_resnet", "--json", "--markdown", "page.md"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["versions"] == [versions()]
    assert [(r["name"], r["status"]) for r in document["records"]] == [("test_resnet", "pass")]
    assert [r.name for r in pool.read_records(here / "coverage.jsonl")] == ["test_resnet"]
    assert (here / "page.md").read_text().startswith("# Coverage of timm\n")
    assert run(["coverage", "--report-only"]) == 0
    assert "test_resnet" not in capsys.readouterr().out  # only what needs a line of its own has one


def test_failures_are_named_and_make_the_exit_status(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pool, "run", fake_run)
    arguments = ["coverage", "--pattern", "test_[cr]*n*", "--method", "bnn", "--method", "bidense"]
    assert run(arguments) == INCOMPLETE
    out, err = capsys.readouterr()
    assert "failed: test_convnext (model, bnn), load: it is not the same" in out
    assert "test_convnext (model, bidense): load: it is not the same" in err
    assert max(map(len, [line for line in out.splitlines() if not line.startswith("failed")])) <= 80
    assert "\x1b" not in out + err


def test_networks_of_libraries_are_named_with_their_final_layers(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_some(jobs: Any, *, report: Any, **options: Any) -> list[Record]:
        found = []
        for job in jobs:
            bad = job.subject.name == "resnet18"
            record = dataclasses.replace(
                job.blank(),
                status="fail" if bad else "pass",
                failed="final" if bad else "",
                reason="final layers made binary: fc" * bad,
                outputs=({"name": "output", "final": ["fc"], "kept": ["fc"], "functions": []},),
            )
            report(record, False)
            found.append(record)
        return found

    monkeypatch.setattr(pool, "run", run_some)
    arguments = ["coverage", "--library", "torchvision", "--pattern", "resnet18", "--pattern", "vit_*"]
    assert run([*arguments, "--markdown", "page.md"]) == INCOMPLETE
    out, err = capsys.readouterr()
    assert "torchvision vit_2_layers (bidense): final layers output: `fc`" in out
    assert "failed: torchvision resnet18 (model, bidense), final: final layers made binary: fc" in out
    assert "torchvision resnet18 (model, bidense): final" in err
    assert "| torchvision | `resnet18` | classes |" in (here / "page.md").read_text()


def test_libraries_may_be_listed_with_commas(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Subject] = []

    def run_none(jobs: Any, **options: Any) -> list[Record]:
        seen.extend(job.subject for job in jobs)
        return []

    monkeypatch.setattr(pool, "run", run_none)
    given = ["coverage", "--library", "timm,torchvision", "--library", "timm", "--pattern", "resnet18"]
    assert run(given) == 0
    assert [(s.library, s.name) for s in seen] == [("timm", "resnet18"), ("torchvision", "resnet18")]


def test_smallest_takes_one_model_of_each_family(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Subject] = []

    def run_none(jobs: Any, **options: Any) -> list[Record]:
        seen.extend(job.subject for job in jobs)
        return []

    monkeypatch.setattr(pool, "run", run_none)
    arguments = [
        "coverage",
        "--smallest",
        "--use",
        "upernet",
        "--pattern",
        "resnet1[08]",
        "--pattern",
        "vgg1[13]",
    ]
    assert run(arguments) == 0
    assert [(s.name, s.use) for s in seen] == [("resnet18", "upernet"), ("vgg11", "upernet")]


def test_smallest_is_taken_in_each_use(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Subject] = []

    def run_none(jobs: Any, **options: Any) -> list[Record]:
        seen.extend(job.subject for job in jobs)
        return []

    monkeypatch.setattr(pool, "run", run_none)
    arguments = ["coverage", "--smallest", "--use", "model", "--use", "upernet", "--pattern", "resnet1[08]"]
    assert run(arguments) == 0
    assert [(s.name, s.use) for s in seen] == [("resnet18", "model"), ("resnet18", "upernet")]


def test_fresh_leaves_what_is_not_made_again(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Record(name="test_vit", use="model", method="bnn", versions=versions(), status="pass")
    (here / "coverage.jsonl").write_text(other.dumps() + "\n")
    seen: list[bool] = []

    def run_none(jobs: Any, *, fresh: bool, **options: Any) -> list[Record]:
        seen.append(fresh)
        return []

    monkeypatch.setattr(pool, "run", run_none)
    assert run(["coverage", "--pattern", "test_resnet", "--fresh"]) == 0
    assert run(["coverage", "--pattern", "test_resnet"]) == 0
    assert seen == [True, False]
    assert pool.read_records(here / "coverage.jsonl") == [other]


def test_a_report_counts_the_last_result(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = Record(
        name="test_vit", use="model", method="bnn", versions={"binarize": "0"}, reason="not the same"
    )
    good = dataclasses.replace(bad, versions=versions(), status="pass", reason="")
    (here / "coverage.jsonl").write_text(bad.dumps() + "\n" + good.dumps() + "\n")
    assert run(["coverage", "--report-only"]) == 0
    assert "not the same" not in capsys.readouterr().out
    (here / "coverage.jsonl").write_text(good.dumps() + "\n" + bad.dumps() + "\n")
    assert run(["coverage", "--report-only"]) == INCOMPLETE


def test_a_full_disk_is_told(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = Path.open

    def full(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if mode == "a":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened(path, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    monkeypatch.setattr("sys.executable", "/bin/false")  # what comes of it is a result too
    assert run(["coverage", "--pattern", "test_resnet"]) == FAILED
    assert "cannot append a result to 'coverage.jsonl': No space left" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pattern", "resnet81"], "did you mean resnet18"),
        (["--method", "bidens"], "did you mean 'bidense'"),
        (["--report-only"], "holds no result"),
        (["--library", "torchvison"], "did you mean 'torchvision'"),
        (["--library", "torchvision", "--pattern", "resnet81"], "did you mean resnet18"),
        (["--library", "timm,torchvision", "--smallest"], "--smallest is for timm's models"),
        (["--library", "torchvision", "--use", "upernet"], "--use is for timm's models"),
        (["--records", "nowhere/x.jsonl"], "there is no directory"),
        (["--markdown", "."], "is a directory"),
        (["--jobs", "0"], "Invalid value for '--jobs'"),
    ],
)
def test_wrong_input_is_told(
    arguments: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["coverage", *arguments]) == FAILED
    assert message in " ".join(capsys.readouterr().err.split())
    assert list(here.iterdir()) == []
