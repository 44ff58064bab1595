"""Findings on the truths of a data set: what can be wrong with them; `survey` finds it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from binarize.data.dataset import Labels
from binarize.errors import DataError, warn

FEW = 0.01
"""A smaller share of pixels with a truth is taken for a mistake; a single sweep of KITTI has 0.04."""

OUTSIDE = 0.05
"""A larger share of depths that do not count is worth a word."""

SHOWN = 8
"""Values and classes that a message lists at most."""


@dataclass(frozen=True)
class Finding:
    """What is wrong, or probably so.

    Attributes:
        kind: its subject, so that nothing is reported twice.
        message: where, what was found, what was expected, what to do.
        error: whether nothing can be learned from such data.
    """

    kind: Literal[
        "nothing", "few", "unit", "outside", "one class", "absent", "turned", "dark", "shared", "padded"
    ]
    message: str
    error: bool = False


def absent(truth: Labels, counts: Tensor, where: str, *, of_epoch: bool = False) -> Finding | None:
    """Scored classes that no truth holds.

    Args:
        truth: of the data set.
        counts: pixels of each id, (>= classes,).
        where: the name of the data in the message.
        of_epoch: whether the truths are those of one epoch, cut by the augmentation: others may hold more.
    """
    names = truth.names
    missing = [i for i in range(len(names)) if i not in truth.unscored and counts[i] == 0]
    if not missing or len(missing) >= len(names) - len(truth.unscored) - 1:
        return None  # no class, or a single one, has its own message
    shown = [class_name(i, names) for i in missing[:SHOWN]] + ["..."] * (len(missing) > SHOWN)
    if of_epoch:
        return Finding(
            "absent",
            f"{where}: {len(missing)} of {len(names)} classes were in no truth of the first epoch, as the "
            f"augmentation cut them: {', '.join(shown)}. If they are rare, later epochs may hold them; "
            "`binarize data check RECIPE` says which classes the files hold.",
        )
    return Finding(
        "absent",
        f"{where}: {len(missing)} of {len(names)} classes occur nowhere: {', '.join(shown)}. The network "
        "cannot learn them; are the number of classes and the ids of the masks right?",
    )


def class_name(index: int, names: Sequence[str]) -> str:
    """Its id, and its name if it has one."""
    return str(index) if names[index] == f"class {index}" else f"{index} ({names[index]})"


def report(found: Iterable[Finding]) -> set[str]:
    """Warn of what is probably wrong; returns the kinds of these findings.

    Raises:
        DataError: the first finding from which nothing can be learned.
    """
    found = list(found)
    for finding in found:
        if finding.error:
            raise DataError(finding.message)
    for finding in found:
        warn(finding.message)
    return {finding.kind for finding in found}
