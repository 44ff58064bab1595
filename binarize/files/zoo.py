"""Trained networks that come with the toolkit: `zoo:NAME` wherever a model's file is expected."""

from __future__ import annotations

import os
from pathlib import Path

from binarize.errors import ConfigError, unknown_name
from binarize.shipped import shipped

PREFIX = "zoo:"

MODEL = "model.safetensors"
"""The network, packed if it is binary."""

METRICS = "metrics.json"
"""What was measured of it."""

CARD = "README.md"
"""For people: what the network does, and how well."""


def folder() -> Path:
    """Where the entries are."""
    return shipped("zoo")


def names() -> list[str]:
    """Names of the trained networks: `camvid-bidense`."""
    return sorted(p.parent.name for p in folder().glob(f"*/{METRICS}"))


def entry(name: str) -> Path:
    """The folder of an entry.

    Args:
        name: with or without `zoo:`.

    Raises:
        ConfigError: there is no such entry; the message holds near names.
    """
    bare = name.removeprefix(PREFIX)
    if bare not in (known := names()):
        raise ConfigError(unknown_name("network in the zoo", bare, known))
    return folder() / bare


def locate(path: str | os.PathLike[str]) -> Path:
    """The file that `path` means: itself, or for `zoo:NAME` that of the entry.

    Raises:
        ConfigError: no entry has this name.
    """
    text = os.fspath(path)
    return entry(text) / MODEL if text.startswith(PREFIX) else Path(text)
