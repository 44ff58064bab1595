"""Data sets by name."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError, validate_call

from binarize.data.dataset import Task
from binarize.data.samples import SampleDataset
from binarize.errors import ConfigError, DataError, unknown_name
from binarize.registry import Registry

Loader = Callable[..., SampleDataset]


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """A data set that recipes can name.

    Attributes:
        name: for recipes.
        task: what its truth is.
        splits: names of its parts.
        folders: folders to search for it, under the folder that BINARIZE_DATA names; empty if it has no
            files.
        layout: what its folder must hold, for messages.
        terms: its terms of use, and what to cite.
        load: (root, split, **options) -> the data set.
    """

    name: str
    task: Task | None
    splits: tuple[str, ...]
    folders: tuple[str, ...]
    layout: str
    terms: str
    load: Loader


_REGISTRY: Registry[DatasetInfo] = Registry(
    "data set", builtin="binarize.data.builtin", group="binarize.datasets"
)


def register_dataset(
    name: str,
    *,
    task: Task | None,
    splits: tuple[str, ...],
    folders: tuple[str, ...] = (),
    layout: str = "",
    terms: str = "",
) -> Callable[[Loader], Loader]:
    """Register a function (root, split, **options) -> SampleDataset as `name`.

    Args:
        name: that recipes use.
        task: `segmentation` or `depth`; None for a set that has both, by an option.
        splits: that it has.
        folders: names under which it is looked for where BINARIZE_DATA points to; none for a set without
            files.
        layout: of its files, for `binarize data list`.
        terms: of use, likewise.

    Raises:
        ConfigError: the name is taken.
    """

    def register(load: Loader) -> Loader:
        _REGISTRY.add(
            name,
            DatasetInfo(
                name=name, task=task, splits=splits, folders=folders, layout=layout, terms=terms, load=load
            ),
        )
        return load

    return register


def names() -> list[str]:
    """Names of all data sets."""
    return _REGISTRY.names()


def info(name: str) -> DatasetInfo:
    """The entry of a data set.

    Raises:
        ConfigError: no data set has this name.
    """
    return _REGISTRY.get(name)


def create(name: str, split: str, root: Path | None = None, **options: Any) -> SampleDataset:
    """A part of a data set.

    Args:
        name: see `names`.
        split: one of its parts.
        root: its folder; by default it is searched in the folder that BINARIZE_DATA names.
        options: of the data set.

    Raises:
        ConfigError: no such data set, part or option.
        DataError: its files are not where they should be.
    """
    chosen = info(name)
    check_split(name, split)
    where = _root(chosen, root) if chosen.layout else None
    known = list(inspect.signature(chosen.load).parameters)[2:]
    for option in options:
        if option not in known:
            raise ConfigError(unknown_name(f"option of data set {name}", option, known))
    try:
        return validate_call(chosen.load)(where, split, **options)
    except ValidationError as error:
        faults = (
            f"{fault['loc'][0]}: {fault['msg'].lower()}; got {fault['input']!r}" for fault in error.errors()
        )
        raise ConfigError(f"data set {name}: {'; '.join(faults)}.") from None


def check_split(name: str, split: str) -> None:
    """Refuse a part that a data set does not have.

    Raises:
        ConfigError: no such data set or part.
    """
    chosen = info(name)
    if chosen.splits and split not in chosen.splits:
        raise ConfigError(unknown_name(f"split of {name}", split, chosen.splits))


def _root(chosen: DatasetInfo, given: Path | None) -> Path:
    if given is not None:
        if not given.is_dir():
            raise DataError(f"{given}: no such folder; expected {chosen.name}: {chosen.layout}.")
        return given
    base = os.environ.get("BINARIZE_DATA")
    if not base:
        raise DataError(
            f"where is {chosen.name}? Give its folder with --data DIR (data.root in a recipe), or set the "
            f"environment variable BINARIZE_DATA to the folder that holds {' or '.join(chosen.folders)}."
        )
    for folder in chosen.folders:
        if (found := Path(base) / folder).is_dir():
            return found
    raise DataError(
        f"{chosen.name} is not under BINARIZE_DATA={base}: none of {', '.join(chosen.folders)} is there; "
        f"give its folder with --data DIR. Expected in it: {chosen.layout}."
    )
