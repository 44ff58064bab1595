"""The folder of a run: whether a training can start there, or continue what it holds.

A run continues by the same recipe. Other values are allowed of settings that do not change what is trained
(`FREE`), and, where the learning rate is constant, of those that may change in the middle (`CONSTANT`):

* `training.epochs`, a larger number: the run is extended. With OneCycle the rate of every step depends on the
  number of epochs, so that another number would make it jump: this is refused.
* `training.schedule`, to `constant`, with which any run can be extended, and `training.lr`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from binarize import files
from binarize.errors import BinarizeError, ConfigError, FormatError, warn
from binarize.recipes import TrainingRecipe, validate
from binarize.training.folder import MODEL, STATE
from binarize.training.state import read_progress, read_recipe
from binarize.user_code import Code, is_file, parts

FREE = (
    "about",
    "data.root",
    "data.workers",
    "training.save_every",
    "training.evaluate_every",
    "training.keep",
    "training.patience",
    "training.min_delta",
    "training.trackers",
)
"""Settings that do not change what is trained: a run may continue with other values of them."""

CONSTANT = ("training.epochs", "training.lr", "training.schedule")
"""Settings that a run may change in the middle if its learning rate is constant from then on."""


class Change(NamedTuple):
    """A setting that differs from that of the run so far."""

    name: str
    was: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.name} was {self.was!r}, is {self.now!r}"


def check_folder(out: Path, recipe: TrainingRecipe, resume: bool) -> tuple[list[Change], int]:
    """Refuse a folder whose run would be overwritten, or followed another recipe.

    Returns:
        What changes in the middle of the run, and the epochs that it was planned for at its start.

    Raises:
        ConfigError: it holds a run, and `resume` is False or the recipes differ in what has to stay; or it
            holds a network alone.
        FormatError: its state file is corrupt.
    """
    state = out / STATE
    if not state.is_file():
        if (out / MODEL).is_file():
            raise ConfigError(
                f"{out} holds a network, {MODEL}, and no state to continue from: a new run would replace it. "
                "Name another folder with --out (training.start_from begins with the network's weights), or "
                "delete the file."
            )
        return [], recipe.training.epochs
    if not resume:
        raise ConfigError(
            f"{out} holds a run already; continue it with --resume (in Python resume=True), or name another "
            "folder."
        )
    try:
        stored = validate(read_recipe(state), str(state))
        progress = read_progress(state)
    except FormatError as error:
        raise FormatError(f"{error} {_remedy(out)}") from error
    differing = sorted(_differences(stored.model_dump(mode="json"), recipe.model_dump(mode="json")))
    changes = [change for change in differing if change.name not in FREE]
    changes = [c for c in changes if not (c.name == "network.name" and _same_code(out, c.was, c.now))]
    fixed = [change for change in changes if not change.name.startswith(CONSTANT)]
    if fixed:
        raise ConfigError(f"{out} holds a run of another recipe: {'; '.join(map(str, fixed[:5]))}.")
    _check_changes(out, stored, recipe, changes, progress.history)
    return changes, progress.planned or stored.training.epochs


def _remedy(out: Path) -> str:
    """What to do about a state that cannot be read: the network beside it may be whole."""
    try:
        files.read_header(out / MODEL)
    except (BinarizeError, OSError):
        return f"The run cannot be continued: delete {out}, or train with another --out."
    return (
        "The run cannot be continued; a new one can start from its last network: "
        f"--set training.start_from={out} --out ANOTHER."
    )


def _check_changes(
    out: Path, stored: TrainingRecipe, recipe: TrainingRecipe, changes: list[Change], history: list[Any]
) -> None:
    """Refuse a change of the number of epochs, the rate or the schedule that is not allowed."""
    if not changes:
        return
    was, now = stored.training, recipe.training
    named = "; ".join(map(str, changes[:5]))
    if now.epochs < was.epochs:
        raise ConfigError(
            f"{out}: {named}: a run can be extended, not shortened; its network can be used as it is. If it "
            f"was extended before, give the same number again: --set training.epochs={was.epochs}."
        )
    if now.schedule.name == "constant":
        return
    if now.epochs == was.epochs:
        raise ConfigError(f"{out} holds a run of another recipe: {named}.")
    rate = f" (the last one was {history[-1]['lr']:.3g})" if history else ""
    raise ConfigError(
        f"{out}: {named}: the learning rate of the schedule {now.schedule.name} depends on the number of "
        f"epochs, and would jump. Continue at a constant rate{rate}: --resume "
        f"--set training.epochs={now.epochs} --set training.schedule.name=constant --set training.lr=RATE; "
        "or start a new run from its weights: "
        f"--set training.start_from={out} --out ANOTHER."
    )


def _same_code(out: Path, was: str, now: str) -> bool:
    """Whether two names are of the same callable in files of the same text, as after a project was moved."""
    if not (is_file(was) and is_file(now) and parts(was)[1:] == parts(now)[1:]):
        return False
    code = Code(now.partition("?")[0], None)
    if code.path is None or not code.path.is_file():
        return False
    try:
        stored = files.read_header(out / MODEL).source
    except (BinarizeError, OSError):  # nothing tells which text it was
        return False
    return stored.get("code", {}).get("sha256") == code.fingerprint()


def warn_of_changed_code(out: Path, recipe: TrainingRecipe) -> None:
    """Warn if the file of the network's code is not the text that the run in `out` began with."""
    name = recipe.network.name
    if not is_file(name) or not (out / MODEL).is_file():
        return
    code = Code(name.partition("?")[0], None)
    stored = files.read_header(out / MODEL).source.get("code", {}).get("sha256")
    if stored and code.path is not None and code.path.is_file() and code.fingerprint() != stored:
        warn(f"{code.path} was changed since {out} was trained: the run continues with the new text.")


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


def _differences(stored: Any, given: Any, name: str = "") -> Iterator[Change]:
    if isinstance(stored, dict) and isinstance(given, dict):
        for key in stored.keys() | given.keys():
            yield from _differences(stored.get(key), given.get(key), f"{name}.{key}" if name else key)
    elif stored != given:
        yield Change(name, stored, given)
