"""What a check of one model found; one line of JSON in a records file."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from binarize.errors import FormatError

Status = Literal["pass", "fail", "skip"]


@dataclass(frozen=True, kw_only=True)
class Record:
    """One model, in one use, with one method.

    Attributes:
        name: of the timm model.
        use: `model` or `upernet`.
        method: name of the method.
        versions: of binarize, timm and torch.
        family: the file of timm that defines the model.
        status: `skip` says that there is nothing to convert, for `reason`.
        reason: of a skip or a failure.
        failed: the step that failed: build, plan, convert, forward, backward, batch, load, resize.
        device: `cpu`; `meta` for a model too large for the machine: shapes only, no arithmetic.
        params: of the float model.
        size: (C, H, W) of the smallest image that the float model takes.
        second_size: of another one that it takes, or None.
        overflows: the size at which numbers overflow, and where; then all was checked from the next size on.
        convs: convolutions of the float model.
        linears: its linear layers.
        convs_converted: how many of the convolutions became binary.
        linears_converted: how many of the linear layers did.
        convs_kept: reasons of the policy or the method, and how many convolutions stayed float for each.
        linears_kept: likewise.
        convs_missed: names of convolutions that policy and method want converted and that were not.
        notes: what the plan says about the whole model.
        seconds: by step.
    """

    name: str
    use: str
    method: str
    versions: dict[str, str]
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
    notes: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What makes two records reports of the same check."""
        return self.name, self.use, self.method, json.dumps(self.versions, sort_keys=True)

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
            given: dict[str, Any] = json.loads(line)
            for name in ("size", "second_size", "convs_missed", "notes"):
                given[name] = tuple(given[name]) if given[name] is not None else None
            return cls(**given)
        except (ValueError, TypeError, KeyError) as error:
            raise FormatError(f"not a coverage record ({error}): {line[:80]!r}") from None
