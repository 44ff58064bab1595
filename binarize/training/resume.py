"""The folder of a run: whether a training can start there, or continue what it holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from binarize import files
from binarize.errors import ConfigError
from binarize.recipes import TrainingRecipe, validate
from binarize.training.folder import STATE
from binarize.training.state import read_recipe

FREE = ("about", "data.root", "data.workers", "training.save_every", "training.evaluate_every")
"""Settings that do not change what is trained: a run may continue with other values of them."""


def check_folder(out: Path, recipe: TrainingRecipe, resume: bool) -> None:
    """Refuse a folder whose run would be overwritten, or followed another recipe.

    Raises:
        ConfigError: it holds a run, and `resume` is False or the recipes differ.
        FormatError: its state file is corrupt.
    """
    state = out / STATE
    if not state.is_file():
        return
    if not resume:
        raise ConfigError(f"{out} holds a run already; go on with --resume, or name another folder.")
    stored = validate(read_recipe(state), str(state)).model_dump(mode="json")
    given = recipe.model_dump(mode="json")
    differing = sorted(_differences(stored, given))
    if differing:
        raise ConfigError(f"{out} holds a run of another recipe: {'; '.join(differing[:5])}.")


def make_folder(out: Path) -> None:
    """Make the folder of a run, and see that files can be written there.

    Raises:
        ConfigError: it cannot be made or written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {out}: {error.strerror or error}.") from error
    files.check_target(out / STATE)


def _differences(stored: Any, given: Any, name: str = "") -> Iterator[str]:
    if isinstance(stored, dict) and isinstance(given, dict):
        for key in stored.keys() | given.keys():
            yield from _differences(stored.get(key), given.get(key), f"{name}.{key}" if name else key)
    elif stored != given and name not in FREE:
        yield f"{name} was {stored!r}, is {given!r}"
