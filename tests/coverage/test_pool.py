"""Checks in processes of their own: results are kept as they come, whatever happens to a process."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from binarize.coverage import Record, Subject, pool, processes, subjects
from binarize.coverage.checks import memory_needed
from binarize.coverage.subjects import versions
from binarize.errors import ConfigError, FormatError


def record(name: str = "test_resnet", method: str = "bidense", **fields: object) -> Record:
    return Record(name=name, use="model", method=method, versions=versions(), status="pass", **fields)  # type: ignore[arg-type]


def job(name: str, needs: int = 1) -> pool.Job:
    return pool.Job(subject=Subject(name=name), method="bidense", needs=needs)


Program = Callable[[str], None]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Lets a shell script stand for the processes that check."""

    def make(script: str) -> None:
        path = tmp_path / "program"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr("sys.executable", str(path))

    return make


def answering(answer: Record) -> str:
    return f"while read line; do echo '{answer.dumps()}'; done"


def within(seconds: float, work: Callable[[], object]) -> None:
    """Run something that may hang if it is wrong."""
    raised: list[BaseException] = []

    def go() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=go, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive()
    for error in raised:
        raise error


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_a_last_line_without_its_newline_gets_one(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    first, second = record(), record(method="bnn")
    path.write_text(first.dumps())
    assert pool.read_records(path) == [first]
    with path.open("a") as stream:
        stream.write(second.dumps() + "\n")
    assert pool.read_records(path) == [first, second]


def test_a_later_record_takes_the_place_of_an_earlier_one_of_the_same_check(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    first, again = record(reason="first"), record(reason="again")
    other = dataclasses.replace(first, versions={"binarize": "0.0.1"})
    path.write_text("".join(r.dumps() + "\n" for r in (first, other, again)))
    assert pool.read_records(path) == [other, again]


def test_fresh_results_follow_the_old_ones_and_leave_the_others(tmp_path: Path, program: Program) -> None:
    path = tmp_path / "records.jsonl"
    old, other = record(reason="old"), record("test_vit")
    path.write_text(old.dumps() + "\n" + other.dumps())
    program(answering(record(reason="new")))
    seen: list[tuple[str, bool]] = []
    options: dict[str, Any] = {"processes": 1, "memory": 8 << 30, "records": path}
    jobs = [job("test_resnet")]
    pool.run(iter(jobs), report=lambda r, was: seen.append((r.reason, was)), **options)
    pool.run(iter(jobs), fresh=True, report=lambda r, was: seen.append((r.reason, was)), **options)
    assert seen == [("old", True), ("new", False)]
    assert pool.read_records(path) == [other, record(reason="new")]
    assert path.read_text().count("\n") == 3


@pytest.mark.parametrize(("memory", "expected"), [(8 << 30, "cpu"), (1 << 30, "meta")])
def test_a_model_that_was_too_large_is_checked_again_where_it_fits(
    memory: int, expected: str, tmp_path: Path, program: Program
) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(record(device="meta", params=1000).dumps() + "\n")
    program(answering(record(params=1000)))
    found = pool.run(iter([job("test_resnet")]), processes=1, memory=memory, records=path)
    assert [r.device for r in found] == [expected]


@pytest.mark.parametrize(("program", "status"), [("/bin/false", "1"), ("/bin/true", "0")])
def test_a_process_that_ends_is_a_failure_of_its_model(
    program: str, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path(program).exists():
        pytest.skip(f"there is no {program} here")
    monkeypatch.setattr("sys.executable", program)
    found = pool.run(iter([job("test_resnet"), job("test_convnext")]), processes=1, memory=8 << 30)
    assert [r.status for r in found] == ["fail", "fail"]
    assert all(r.failed == "process" and f"status {status}" in r.reason for r in found)
    assert {r.family for r in found} == {"resnet", "convnext"}


@pytest.mark.parametrize("end", ["kill -ILL $$", "exec 1>&-; sleep 0.5; kill -ILL $$"])
def test_a_crash_has_its_own_status(end: str, program: Program) -> None:
    program(f"read line; {end}")
    (found,) = pool.run(iter([job("test_resnet")]), processes=1, memory=8 << 30)
    assert found.reason == f"the process ended with status {-signal.SIGILL}: a crash of native code?"


def test_a_model_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch, program: Program) -> None:
    monkeypatch.setattr(processes, "TIMEOUT", 0.3)
    program("exec sleep 60")
    (found,) = pool.run(iter([job("test_resnet")]), processes=1, memory=8 << 30)
    assert (found.status, found.failed) == ("fail", "process")
    assert found.reason == "no result within 0.3 seconds"


def test_an_interrupt_ends_all_and_keeps_nothing_of_what_it_ended(tmp_path: Path, program: Program) -> None:
    path, ids = tmp_path / "records.jsonl", tmp_path / "ids"
    program(f"echo $$ >> {ids}; exec sleep 60")
    seen: list[Record] = []
    sessions: list[int] = []

    def interrupt() -> None:
        while not (ids.exists() and ids.read_text().count("\n") == 2):
            time.sleep(0.05)
        sessions.extend(os.getsid(int(line)) for line in ids.read_text().split())
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    start, before = time.monotonic(), threading.active_count()
    # whoever starts the tests in the background of a shell hands down that Ctrl-C is ignored
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            pool.run(
                (job("test_resnet") for _ in range(30)),
                processes=2,
                memory=8 << 30,
                records=path,
                report=lambda r, _: seen.append(r),
            )
    finally:
        signal.signal(signal.SIGINT, handler)
    assert time.monotonic() - start < 30
    while threading.active_count() > before and time.monotonic() - start < 30:
        time.sleep(0.1)  # a thread that was told to end may do so a moment later
    assert threading.active_count() <= before
    assert seen == []
    assert not path.exists()
    assert os.getsid(0) not in sessions  # or the terminal would interrupt the processes too
    for line in ids.read_text().split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(line), 0)


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_of_a_report_ends_all_and_is_told(count: int, tmp_path: Path, program: Program) -> None:
    path = tmp_path / "records.jsonl"
    program(answering(record()))

    def report(_: Record, old: bool) -> None:
        raise ValueError("from the report")

    def work() -> None:
        jobs = (job("test_resnet") for _ in range(100))
        pool.run(jobs, processes=count, memory=8 << 30, records=path, report=report)

    with pytest.raises(ValueError, match="from the report"):
        within(30, work)
    assert pool.read_records(path) == [record()]
    assert path.read_text().count("\n") == 1


def test_an_error_among_the_jobs_ends_all(program: Program) -> None:
    program("exec sleep 60")

    def jobs() -> Iterator[pool.Job]:
        yield job("test_resnet")
        time.sleep(0.5)
        raise ConfigError("from the jobs")

    with pytest.raises(ConfigError, match="from the jobs"):
        within(30, lambda: pool.run(jobs(), processes=1, memory=8 << 30))


def test_a_full_disk_is_told(tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "records.jsonl"
    program(answering(record()))
    opened = Path.open

    def full(given: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if mode == "a":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened(given, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    jobs = (job("test_resnet") for _ in range(100))
    with pytest.raises(ConfigError, match=r"cannot append a result to .*records.jsonl': No space left"):
        within(30, lambda: pool.run(jobs, processes=2, memory=8 << 30, records=path))


def test_jobs_know_their_memory_and_leave_out_models_with_few_convolutions() -> None:
    subjects = [Subject(name="test_resnet"), Subject(name="test_vit")]
    jobs = list(pool.jobs_for(subjects, ["bidense", "bnn"], min_convs=2))
    assert [(j.subject.name, j.method) for j in jobs] == [("test_resnet", "bidense"), ("test_resnet", "bnn")]
    assert jobs[0].needs > memory_needed(0)
    assert len(list(pool.jobs_for(subjects, ["bnn"]))) == 2


def test_available_memory_is_a_plausible_number() -> None:
    assert 100 << 20 < pool.available_memory() < 1 << 50


def test_smallest_of_each_use_and_family_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    shell = Subject.shell

    def counted(subject: Subject) -> Any:
        built.append(subject.name)
        return shell(subject)

    monkeypatch.setattr(Subject, "shell", counted)
    subjects.measure.cache_clear()
    uses: tuple[subjects.Use, ...] = ("model", "upernet")
    given = [Subject(name=name, use=use) for use in uses for name in ("resnet18", "resnet10t")]
    chosen = subjects.smallest_per_family(given)
    assert [(s.name, s.use) for s in chosen] == [("resnet10t", "model"), ("resnet10t", "upernet")]
    assert [j.subject for j in pool.jobs_for(given, ["bnn"])] == given
    assert built == ["resnet18", "resnet10t"]
