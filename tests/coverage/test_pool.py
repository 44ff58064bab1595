"""Checks in processes of their own: results are kept as they come, whatever happens to a process."""

from __future__ import annotations

from pathlib import Path

import pytest

from binarize.coverage import Record, Subject, pool
from binarize.coverage.checks import memory_needed, versions
from binarize.errors import FormatError


def record(name: str = "test_resnet", method: str = "bidense", **fields: object) -> Record:
    return Record(name=name, use="model", method=method, versions=versions(), status="pass", **fields)  # type: ignore[arg-type]


def job(name: str, needs: int = 1) -> pool.Job:
    return pool.Job(subject=Subject(name=name), method="bidense", needs=needs)


def test_results_are_kept_and_not_made_again(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    jobs = [job("test_resnet"), job("test_convnext")]
    seen: list[tuple[str, bool]] = []
    first = pool.run(iter(jobs[:1]), processes=1, memory=8 << 30, records=path)
    assert [r.status for r in first] == ["pass"]
    both = pool.run(
        iter(jobs),
        processes=2,
        memory=8 << 30,
        records=path,
        report=lambda r, old: seen.append((r.name, old)),
    )
    assert {r.name: r.status for r in both} == {"test_resnet": "pass", "test_convnext": "pass"}
    assert sorted(seen) == [("test_convnext", False), ("test_resnet", True)]
    assert pool.read_records(path) == [*first, next(r for r in both if r.name == "test_convnext")]


def test_other_versions_are_other_results(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    old = Record(
        name="test_resnet", use="model", method="bidense", versions={"binarize": "0.0.1"}, status="pass"
    )
    path.write_text(old.dumps() + "\n")
    seen: list[bool] = []
    pool.run(
        iter([job("test_resnet")]),
        processes=1,
        memory=8 << 30,
        records=path,
        report=lambda _, o: seen.append(o),
    )
    assert seen == [False]


def test_a_line_cut_short_is_made_again_and_a_wrong_one_named(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    whole = record()
    path.write_text(whole.dumps() + "\n" + whole.dumps()[:40])
    assert pool.read_records(path) == [whole]
    assert path.read_text() == whole.dumps() + "\n"  # so that the next result starts a line of its own
    path.write_text("nonsense\n" + whole.dumps() + "\n")
    with pytest.raises(FormatError, match="line 1: not a coverage record"):
        pool.read_records(path)
    pool.forget(path)
    assert pool.read_records(path) == []


@pytest.mark.parametrize(("program", "status"), [("/bin/false", "1"), ("/bin/true", "0")])
def test_a_process_that_ends_is_a_failure_of_its_model(
    program: str, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path(program).exists():
        pytest.skip(f"there is no {program} here")
    monkeypatch.setattr(pool.sys, "executable", program)
    found = pool.run(iter([job("test_resnet"), job("test_convnext")]), processes=1, memory=8 << 30)
    assert [r.status for r in found] == ["fail", "fail"]
    assert all(r.failed == "process" and f"status {status}" in r.reason for r in found)
    assert {r.family for r in found} == {"resnet", "convnext"}


def test_jobs_know_their_memory_and_leave_out_models_with_few_convolutions() -> None:
    subjects = [Subject(name="test_resnet"), Subject(name="test_vit")]
    jobs = list(pool.jobs_for(subjects, ["bidense", "bnn"], min_convs=2))
    assert [(j.subject.name, j.method) for j in jobs] == [("test_resnet", "bidense"), ("test_resnet", "bnn")]
    assert jobs[0].needs > memory_needed(0)
    assert len(list(pool.jobs_for(subjects, ["bnn"]))) == 2


def test_available_memory_is_a_plausible_number() -> None:
    assert 100 << 20 < pool.available_memory() < 1 << 50
