"""Checks side by side in processes of their own, as many as memory allows, each result kept at once."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from binarize.coverage.checks import memory_needed, versions
from binarize.coverage.record import Record
from binarize.coverage.subjects import Subject, count_convolutions
from binarize.errors import FormatError
from binarize.files import write_bytes

TIMEOUT = 1800.0
"""Seconds after which a model is given up."""

_MODELS_PER_PROCESS = 60  # classes that rewritten forwards made stay in a process


@dataclass(frozen=True, kw_only=True)
class Job:
    """One check to run.

    Attributes:
        subject: the model.
        method: name of the method.
        needs: bytes of memory that it takes, roughly.
    """

    subject: Subject
    method: str
    needs: int

    def blank(self) -> Record:
        """The record of this check before anything of it was done."""
        return Record(
            name=self.subject.name,
            use=self.subject.use,
            method=self.method,
            versions=versions(),
            family=self.subject.family,
        )


def jobs_for(subjects: Sequence[Subject], methods: Sequence[str], *, min_convs: int = 0) -> Iterator[Job]:
    """Jobs with the memory that they take, found out on the meta device.

    Args:
        subjects: the models.
        methods: one job each.
        min_convs: leave out models with fewer convolutions.
    """
    for subject in subjects:
        classifier = Subject(name=subject.name).shell()
        if count_convolutions(classifier) < min_convs:
            continue
        params = sum(parameter.numel() for parameter in classifier.parameters())
        for method in methods:
            yield Job(subject=subject, method=method, needs=memory_needed(params))


def run(
    jobs: Iterator[Job],
    *,
    processes: int,
    memory: int,
    records: Path | None = None,
    report: Callable[[Record, bool], None] | None = None,
) -> list[Record]:
    """Run checks; those that `records` already holds, by these versions, are not run again.

    Args:
        jobs: what to check.
        processes: checks side by side at most.
        memory: bytes for all of them; a model that needs more alone is converted on the meta device.
        records: file of results, appended to as they come; None keeps none.
        report: called with each result, and whether it was there already.

    Returns:
        One record per job, in no particular order.
    """
    known = {record.key: record for record in read_records(records)} if records is not None else {}
    results: list[Record] = []
    lock = threading.Lock()
    budget = _Budget(memory)
    waiting: queue.Queue[Job | None] = queue.Queue(maxsize=4 * processes)

    def done(record: Record, *, old: bool) -> None:
        with lock:
            results.append(record)
            if records is not None and not old:
                with records.open("a", encoding="utf-8") as stream:
                    stream.write(record.dumps() + "\n")
            if report is not None:
                report(record, old)

    def serve() -> None:
        worker: _Worker | None = None
        try:
            while (job := waiting.get()) is not None:
                if worker is None or worker.done >= _MODELS_PER_PROCESS:
                    if worker is not None:
                        worker.close()
                    worker = _Worker()
                with budget.taken(job.needs):
                    record = worker.check(job, memory)
                if not worker.alive:
                    worker = None
                done(record, old=False)
        finally:
            if worker is not None:
                worker.close()

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(processes)]
    for thread in threads:
        thread.start()
    try:
        for job in jobs:
            old = known.get(job.blank().key)
            if old is not None:
                done(old, old=True)
            else:
                waiting.put(job)
    finally:
        for _ in threads:
            waiting.put(None)
    for thread in threads:
        thread.join()
    return results


def read_records(path: Path) -> list[Record]:
    """The records in a file; a last line that was cut short, by a kill or a full disk, is left out.

    Raises:
        FormatError: if another line is no record.
    """
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    lines = text.split("\n")
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found.append(Record.loads(line))
        except FormatError as error:
            if number == len(lines):
                write_bytes(path, text[: len(text) - len(line)].encode())
                break
            raise FormatError(f"{str(path)!r}, line {number}: {error}") from None
    return found


def forget(path: Path) -> None:
    """Empty a records file."""
    if path.exists():
        write_bytes(path, b"")


def available_memory() -> int:
    """Bytes that can be used without swapping; half the physical memory where the system does not tell."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


class _Budget:
    """Memory shared by the processes; a job waits until there is enough left for it."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._free = total
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, needs: int) -> Iterator[None]:
        share = min(needs, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= share)
            self._free -= share
        try:
            yield
        finally:
            with self._changed:
                self._free += share
                self._changed.notify_all()


class _Worker:
    """A process of `binarize.coverage.worker`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "binarize.coverage.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("a process without pipes")
        self._jobs, self._results = self._process.stdin, self._process.stdout
        self.done = 0

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def check(self, job: Job, memory: int) -> Record:
        """The record of a job, whatever happens to the process."""
        given = {"name": job.subject.name, "use": job.subject.use, "method": job.method, "memory": memory}
        line = ""
        timer = threading.Timer(TIMEOUT, self._process.kill)
        timer.start()
        try:
            with contextlib.suppress(OSError):  # a process that has ended closes its pipes
                self._jobs.write(json.dumps(given) + "\n")
                self._jobs.flush()
                line = self._results.readline()
        finally:
            timer.cancel()
        self.done += 1
        if line.endswith("\n"):
            return Record.loads(line)
        self._process.kill()
        status = self._process.wait()
        self.close()
        why = "out of memory, or out of time?" if status == -9 else "a crash of native code?"
        return dataclasses.replace(
            job.blank(), failed="process", reason=f"the process ended with status {status}: {why}"
        )

    def close(self) -> None:
        for pipe in (self._jobs, self._results):
            with contextlib.suppress(OSError):
                pipe.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
