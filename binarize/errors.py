"""Errors of the toolkit: each says where, what was given, what was expected and what to do.

Every error derives from `BinarizeError`, so that a caller (the command line, a notebook) can tell
a mistake in the request from a defect in the toolkit, which surfaces as any other exception.
"""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Iterable
from pathlib import Path

_RANKS = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")  # of torchrun and of MPI


class BinarizeError(Exception):
    """Base of all errors that the toolkit raises on purpose."""


class ConfigError(BinarizeError, ValueError):
    """A name, an option or an argument that cannot be used."""


class TraceError(BinarizeError):
    """A model that could not be run or traced, so that no plan can be made."""


class RewriteError(BinarizeError):
    """A plan that does not fit the model it is executed on."""


class FormatError(BinarizeError, ValueError):
    """A file that is truncated, corrupted, foreign or of a newer format."""


class DataError(BinarizeError, ValueError):
    """A data set, or a file of one, that is missing, corrupt or not as its layout requires."""


class TrainingError(BinarizeError):
    """A training run that cannot continue: numbers that overflow, a run folder that does not fit."""


class StoppedError(TrainingError):
    """A training that was interrupted after it was saved."""


class NativeError(BinarizeError, ValueError):
    """An argument that the packed kernels cannot use, or an instruction set that this machine lacks."""


class BinarizeWarning(UserWarning):
    """Something that runs and is probably not what was meant; the command line prints it as one line."""


def is_first_process() -> bool:
    """Whether this process is the first, or the only one, of those that a launcher started."""
    return {os.environ.get(name, "0") for name in _RANKS} == {"0"}


def warn(message: str) -> None:
    """A `BinarizeWarning`; only the first process warns, and Python shows the same message once.

    Args:
        message: what was found, where, and what to do.
    """
    if is_first_process():
        warnings.warn(message, BinarizeWarning, stacklevel=2)


def near_names(name: str, known: Iterable[str], *, limit: int = 3) -> list[str]:
    """The known names that look most like `name`, best first.

    Args:
        name: that is not known.
        known: all names.
        limit: how many at most.
    """
    return difflib.get_close_matches(name, list(known), n=limit, cutoff=0.5)


def near_paths(path: Path) -> str:
    """For the end of a message, what lies beside a missing `path` and is called nearly so; else empty.

    Args:
        path: that does not exist.
    """
    try:
        held = sorted(p.name for p in path.parent.iterdir() if not p.name.startswith("."))
    except (OSError, ValueError):
        return ""
    near = difflib.get_close_matches(path.name, held, n=2, cutoff=0.75)  # equal endings alone do not count
    return f" Did you mean {' or '.join(repr(str(path.parent / name)) for name in near)}?" if near else ""


def unknown_name(what: str, name: str, known: Iterable[str], listed_by: str = "") -> str:
    """The message for a name that is not known: near misses if any, else all names if few.

    Args:
        what: what is named, in the singular ("method", "option of bidense").
        name: what was given.
        known: what would have been accepted.
        listed_by: what lists them, for where they are many ("binarize recipes").
    """
    names = sorted(known)
    near = near_names(name, names)
    if near:
        hint = "did you mean " + " or ".join(repr(n) for n in near) + "?"
    elif names and len(names) <= 20:
        hint = "expected one of " + ", ".join(repr(n) for n in names) + "."
    else:
        hint = f"none of the {len(names)} known names is near" if names else "none is known"
        hint += f"; `{listed_by}` lists them." if listed_by and names else "."
    return f"unknown {what} {name!r}: {hint}"


def first_line(error: BaseException) -> str:
    """The first line of an error of another library, shortened for a message of the toolkit."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{lines[0][:300]}" if lines else type(error).__name__


def listed(names: Iterable[str], most: int = 4) -> str:
    """Names for a sentence: the first few, and how many more.

    Args:
        names: all of them.
        most: how many to name.
    """
    every = list(names)
    more = len(every) - most
    return ", ".join(every[:most]) + (f" and {more} more" if more > 0 else "")


def with_article(noun: str) -> str:
    """`a list`, `an int`: by the first letter, which is right for the names of types."""
    return f"{'an' if noun[:1].lower() in set('aeiou') else 'a'} {noun}"
