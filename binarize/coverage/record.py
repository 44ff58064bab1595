"""The result of a check of one model, one line of JSON in a records file; reading and writing these files."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from binarize.errors import ConfigError, FormatError
from binarize.files import write_bytes

Status = Literal["pass", "fail", "skip"]


@dataclass(frozen=True, kw_only=True)
class Record:
    """One model, in one use, with one method.

    Attributes:
        library: that the model is from.
        name: of the model.
        use: `model` or `upernet`.
        method: name of the method.
        versions: of binarize, timm, torch and the library.
        family: the file of timm that defines the model; of another library's, what it predicts.
        status: `skip` if there is nothing to convert, for `reason`.
        reason: of a skip or a failure.
        failed: the step that failed: build, plan, convert, forward, backward, batch, load, pack, resize,
            final; or process, if the process of the check ended.
        device: `cpu`; `meta` for a model too large for the machine: shapes only, no arithmetic.
        params: of the float model.
        size: (C, H, W) of the smallest image that the float model takes.
        second_size: of another size that it takes, or None.
        overflows: the size at which numbers overflow, and where; then all was checked from the next size on.
        convs: convolutions of the float model.
        linears: its linear layers.
        convs_converted: how many of the convolutions became binary.
        linears_converted: how many of the linear layers did.
        convs_kept: reasons of the policy or the method, and how many convolutions stayed float for each.
        linears_kept: likewise.
        convs_missed: names of convolutions that policy and method would convert but that stayed float.
        not_packed: names of binary layers that have no packed form, with the reason; of networks of another
            library than timm.
        outputs: name, final layers, those kept in float and functions behind them, of each output.
        notes: of the plan, on the whole model.
        seconds: by step.
    """

    name: str
    use: str
    method: str
    versions: dict[str, str]
    library: str = "timm"
    family: str = ""
    status: Status = "fail"
    reason: str = ""
    failed: str = ""
    device: str = "cpu"
    params: int = 0
    size: tuple[int, ...] = ()
    second_size: tuple[int, ...] | None = None
    overflows: str = ""
    convs: int = 0
    linears: int = 0
    convs_converted: int = 0
    linears_converted: int = 0
    convs_kept: dict[str, int] = field(default_factory=dict)
    linears_kept: dict[str, int] = field(default_factory=dict)
    convs_missed: tuple[str, ...] = ()
    not_packed: tuple[str, ...] = ()
    outputs: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        """The key that is equal for two records of the same check."""
        return *self.subject, json.dumps(self.versions, sort_keys=True)

    @property
    def subject(self) -> tuple[str, str, str, str]:
        """What was checked, without versions."""
        return self.library, self.name, self.use, self.method

    def dumps(self) -> str:
        """One line of JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def loads(cls, line: str) -> Record:
        """The inverse of `dumps`.

        Raises:
            FormatError: for anything else.
        """
        try:
            given: dict[str, Any] = dict(json.loads(line))
            for name in ("size", "second_size", "convs_missed", "not_packed", "outputs", "notes"):
                if given.get(name) is not None:  # a field that is newer than the record has its default
                    given[name] = tuple(given[name])
            return cls(**given)
        except (ValueError, TypeError, KeyError) as error:
            raise FormatError(f"not a coverage record ({error}): {line[:80]!r}") from None


def read_records(path: Path) -> list[Record]:
    """The records in a file, oldest first; of several records of one check, the last one.

    A last line that was cut short, by a kill or a full disk, is removed from the file. If only its line end
    is missing, this is added. The next record then starts on a new line.

    Raises:
        ConfigError: if the file has to be changed and cannot be.
        FormatError: if another line is not a record.
    """
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    lines = text.split("\n")
    whole = text if text.endswith("\n") or not text else text + "\n"
    found: dict[tuple[str, ...], Record] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = Record.loads(line)
        except FormatError as error:
            if number == len(lines):
                whole = text[: len(text) - len(line)]
                break
            raise FormatError(f"{str(path)!r}, line {number}: {error}") from None
        found.pop(record.key, None)  # the last one determines its place
        found[record.key] = record
    if whole != text:
        write_bytes(path, whole.encode())
    return list(found.values())


def append_record(path: Path, record: Record) -> None:
    """Add a record to a file.

    Raises:
        ConfigError: if the file cannot be written or the disk is full.
    """
    try:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(record.dumps() + "\n")
    except OSError as error:
        raise ConfigError(
            f"cannot append a result to {str(path)!r}: {error.strerror or error}. The results before it are "
            "kept; make room and run again, or name another file."
        ) from error
