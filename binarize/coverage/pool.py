"""Checks in parallel processes, as many as memory allows; each result is stored immediately."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from binarize.coverage.checks import memory_needed
from binarize.coverage.processes import Budget, ProcessEndedError, Worker
from binarize.coverage.record import Record, append_record, read_records
from binarize.coverage.subjects import Subject

_LEAST = 1 << 30  # bytes for tensors that a backward pass needs; memory_needed includes them
_MODELS_PER_PROCESS = 60  # classes made for rewritten forwards stay in a process


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
        """The empty record of this check, before it starts."""
        return Record(
            library=self.subject.library,
            name=self.subject.name,
            use=self.subject.use,
            method=self.method,
            versions=self.subject.versions(),
            family=self.subject.family,
        )


def jobs_for(subjects: Sequence[Subject], methods: Sequence[str], *, min_convs: int = 0) -> Iterator[Job]:
    """Jobs with the memory that they take, determined on the meta device.

    Args:
        subjects: the models.
        methods: one job each.
        min_convs: leave out timm's models with fewer convolutions.
    """
    for subject in subjects:
        params, convolutions = subject.measure()
        if convolutions < min_convs and subject.library == "timm":
            continue
        for method in methods:
            yield Job(subject=subject, method=method, needs=memory_needed(params))


def run(
    jobs: Iterator[Job],
    *,
    processes: int,
    memory: int,
    records: Path | None = None,
    fresh: bool = False,
    report: Callable[[Record, bool], None] | None = None,
) -> list[Record]:
    """Run checks, except those that `records` already holds for these versions.

    A check on the meta device is run again if the model now fits in memory. An error anywhere, or Ctrl-C,
    ends all processes; the results stored until then stay, none is added.

    Args:
        jobs: what to check.
        processes: the most checks at a time.
        memory: bytes for all of them; a model that needs more alone is converted on the meta device.
        records: file of results, appended to as they come; None keeps none.
        fresh: also run those that `records` holds; the new results are appended to the old ones.
        report: called with each result, and whether it was there already.

    Returns:
        One record per job, in no particular order.

    Raises:
        ConfigError: if `records` cannot be written.
        FormatError: if it holds something else than records.
    """
    found = read_records(records) if records is not None else []  # raises errors of the file, even if unused
    known = {} if fresh else {record.key: record for record in found if not _fits_now(record, memory)}
    crew = _Crew(processes, memory, records, report)
    try:
        for job in jobs:
            old = known.get(job.blank().key)
            if old is not None:
                crew.keep(old, old=True)
            else:
                crew.give(job)
            if crew.stopping:
                break
        crew.end()
    except BaseException:
        crew.stop()
        crew.end()
        raise
    if crew.error is not None:
        raise crew.error
    return crew.results


def _fits_now(record: Record, memory: int) -> bool:
    """Whether a check on the meta device can now be run with real numbers."""
    return record.device == "meta" and memory_needed(record.params) <= memory


def available_memory() -> int:
    """Bytes that can be used without swapping; half the physical memory if the system reports none."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


class _Crew:
    """Threads that take jobs, each with a process of its own, and the results of all of them."""

    def __init__(
        self,
        processes: int,
        memory: int,
        records: Path | None,
        report: Callable[[Record, bool], None] | None,
    ) -> None:
        self.results: list[Record] = []
        self.error: BaseException | None = None
        self._memory, self._records, self._report = memory, records, report
        self._budget = Budget(memory)
        self._waiting: queue.Queue[Job | None] = queue.Queue(maxsize=4 * processes)  # fits all end marks
        self._workers: set[Worker] = set()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(processes)]
        for thread in self._threads:
            thread.start()

    @property
    def stopping(self) -> bool:
        """Whether no more jobs are run."""
        return self._stopping.is_set()

    def give(self, job: Job) -> None:
        """Add a job, as soon as the queue has space for it."""
        self._waiting.put(job)

    def keep(self, record: Record, *, old: bool) -> None:
        """Store a result, unless the pool is being stopped: then it only reports a killed process."""
        with self._lock:
            if self.stopping:
                return
            self.results.append(record)
            if self._records is not None and not old:
                append_record(self._records, record)
            if self._report is not None:
                self._report(record, old)

    def stop(self) -> None:
        """Store no more results and kill all processes."""
        self._stopping.set()
        with self._lock:
            for worker in self._workers:
                worker.kill()

    def end(self) -> None:
        """Wait until all added jobs are done; may be called twice."""
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        worker: Worker | None = None
        # Jobs are taken until the end mark whatever happens, or `give` would wait for space for ever.
        while (job := self._waiting.get()) is not None:
            try:
                with self._budget.taken(job.needs):
                    if self.stopping:
                        continue
                    worker = self._ready(worker)
                    record = self._check(job, worker)
                self.keep(record, old=False)
            except BaseException as error:  # raised again by `run`: errors in a thread are not shown
                self.error = self.error or error
                self.stop()
        if worker is not None:
            worker.close()

    def _ready(self, worker: Worker | None) -> Worker:
        """A process that takes a job: this one, or a new one in its place."""
        if worker is not None and worker.alive and worker.done < _MODELS_PER_PROCESS:
            return worker
        if worker is not None:
            worker.close()
        new = Worker()
        with self._lock:
            self._workers = (self._workers - {worker}) | {new}
            if self.stopping:
                new.kill()
        return new

    def _check(self, job: Job, worker: Worker) -> Record:
        """The record of a job, whatever happens to the process."""
        subject = job.subject
        given = {
            "library": subject.library,
            "name": subject.name,
            "use": subject.use,
            "method": job.method,
            "memory": self._memory,
            "activations": max(_LEAST, self._memory // len(self._threads) - job.needs),
        }
        try:
            return Record.loads(worker.ask(json.dumps(given)))
        except ProcessEndedError as error:
            return dataclasses.replace(job.blank(), failed="process", reason=str(error))
